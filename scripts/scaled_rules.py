"""The alert rules with shorter times, for the trial of alerts_trial.py."""

import re

# Every duration of the rules is divided by this.
FACTOR = 100
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def scaled(rules: str, factor: int = FACTOR) -> str:
    """The rules with every window, `for` and `offset` divided by `factor`. Numbers in the expressions stay as they are."""

    def shorter(found: re.Match) -> str:
        return f"{found[1]}{int(found[2]) * SECONDS[found[3]] * 1000 // factor}ms"

    return re.sub(r"(\bfor:\s+|\[|\boffset\s+)(\d+)([smhd])\b", shorter, rules)
