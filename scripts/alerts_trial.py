#!/usr/bin/env python3
"""Makes every alert of deploy/prometheus fire by its fault and clear by its repair; run by alerts.sh in namespaces of its own.

    alerts_trial.py BINARIES [ALERT...]     BINARIES: the folder with tokenward and entra-emulator; without names, every row

First a quiet phase: two replicas on one Redis, the emulator as their authority, callers who ask all the while, and no alert. Then row
after row of alert_faults.py, some of them beside the others. A row fails if its alert does not fire, does not clear, or if another
alert fires that no row under way names. The table at the end has the seconds from fault to alert and from repair to its end, with the
rules' times divided as scaled_rules.py says.
"""

import contextlib
import json
import os
import pathlib
import sys
import tempfile
import threading
import time

from alert_faults import MAIN, ROWS, Row
from alert_world import World, run, until
from scaled_rules import FACTOR

# What the processes said.
LOGS = pathlib.Path("target/alerts")
QUIET_SECONDS = int(os.environ.get("QUIET_SECONDS", "60"))
# Rows wait for their alert and not for a time. These only end a row that fails.
FIRES_WITHIN, CLEARS_WITHIN = 1800, 300
# An alert may be seen this much after its row is over: two looks and an evaluation.
SEEN_LATE = 3.0


class Trial:
    def __init__(self, world: World, rows: list[Row]):
        self.world, self.rows = world, rows
        self.results: list[tuple[str, float, float, set[str]]] = []
        self.problems: list[str] = []
        # One at a time: rows that take the store away, and what other lanes do that needs it.
        self.store = threading.Lock()
        self.lock = threading.Lock()
        self.under_way: dict[str, Row] = {}
        self.over: list[tuple[float, Row]] = []
        self.beside: dict[str, set[str]] = {}
        self.unexpected: set[str] = set()
        self.stopped = threading.Event()

    def say(self, word: str, what: str) -> None:
        print(f"{time.monotonic() - BEGUN:6.0f} s  {word:5} {what}", flush=True)

    def problem(self, what: str) -> None:
        self.say("FAIL", what)
        self.problems.append(what)

    # -- what fires

    def watch(self) -> None:
        """Finds alerts that fire and that no row under way names."""
        while not self.stopped.wait(0.5):
            try:
                fired = self.world.fired_within(1.5)
            except (OSError, ValueError):
                continue
            with self.lock:
                self.over = [(at, row) for at, row in self.over if time.monotonic() - at < SEEN_LATE]
                rows = [*self.under_way.values(), *(row for _, row in self.over)]
                allowed = {alert for row in rows for alert in (row.alert, *row.beside)}
                for row in rows:
                    self.beside.setdefault(row.alert, set()).update(row.beside & set(fired))
                news = {alert: which for alert, which in fired.items() if alert not in allowed | self.unexpected}
                self.unexpected = {alert for alert in fired if alert not in allowed}
                names = ", ".join(self.under_way) or "the quiet"
            for alert, which in news.items():
                self.problem(f"{alert} fired during {names}: {', '.join(sorted(which))}")

    def others(self, row: Row) -> set[str]:
        """What may fire for the sake of other rows."""
        with self.lock:
            return {alert for other in self.under_way.values() if other is not row for alert in (other.alert, *other.beside)}

    # -- rows

    def quiet(self) -> None:
        # Prometheus finds its targets some seconds after its start, and with such short times that is an alert.
        until("nothing fires", lambda: not self.world.firing())
        time.sleep(2)
        threading.Thread(target=self.watch, daemon=True).start()
        time.sleep(QUIET_SECONDS)
        answers = dict(self.world.load.answers)
        if set(answers) != {200}:
            self.problem(f"in the quiet phase callers got {answers}")
        self.say("ok", f"quiet for {QUIET_SECONDS} s: no alert, {answers.get(200)} tokens")

    def one(self, row: Row) -> None:
        try:
            self.one_through(row)
        except Exception as error:  # whatever it is, the other rows are tried too
            self.problem(f"{row.alert}: {type(error).__name__}: {error}")

    def one_through(self, row: Row) -> None:
        is_beside = row.lane != MAIN
        with contextlib.ExitStack() as over:
            held = contextlib.ExitStack()
            over.push(held)
            over.callback(self.ends, row)
            if row.takes_store or is_beside:
                held.enter_context(self.store)
            with self.lock:
                self.under_way[row.alert] = row
            act = row.act(self.world)
            next(act)
            if is_beside:
                held.close()
                self.say("", f"{row.alert}, beside the others: {row.fault}")
            begun = time.monotonic()
            try:
                until(f"{row.alert} fires", lambda: row.alert in self.world.firing(), FIRES_WITHIN)
            finally:
                fired = time.monotonic()
                if is_beside:
                    held.enter_context(self.store)
                next(act)
            mended = time.monotonic()
            until(f"{row.alert} clears", lambda: row.alert not in self.world.firing(), row.clears_within)
            cleared = time.monotonic()
            # And is not about to fire, for windows that still hold the fault.
            until(f"what fires beside {row.alert} clears", lambda: not self.left(row), CLEARS_WITHIN)
            for _ in act:
                pass
        beside = self.beside.get(row.alert, set())
        self.results.append((row.alert, fired - begun, cleared - mended, beside))
        self.say("ok", f"{row.alert}: fired after {fired - begun:.1f} s, cleared after {cleared - mended:.1f} s"
                 + (f"; beside it {', '.join(sorted(beside))}" if beside else ""))

    def left(self, row: Row) -> set[str]:
        """What fires, or waits to fire, and is no other row's."""
        return (self.world.firing() | self.world.pending() & row.beside) - self.others(row)

    def ends(self, row: Row) -> None:
        with self.lock:
            self.under_way.pop(row.alert, None)
            self.over.append((time.monotonic(), row))

    def run(self) -> None:
        self.quiet()
        main = [row for row in self.rows if row.lane == MAIN]
        for row in main:
            if row.is_first:
                self.one(row)
        lanes: dict[str, threading.Thread] = {}
        for name in dict.fromkeys(row.lane for row in self.rows if row.lane != MAIN):
            def work(of: str = name) -> None:
                for row in self.rows:
                    if row.lane == of:
                        self.one(row)

            lanes[name] = threading.Thread(target=work, daemon=True)
            lanes[name].start()
        for row in main:
            for name in row.after:
                if name in lanes:
                    lanes[name].join()
            if not row.is_first:
                self.one(row)
        for lane in lanes.values():
            lane.join()
        time.sleep(SEEN_LATE)
        self.stopped.set()


BEGUN = time.monotonic()


def main() -> None:
    binaries, names = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    if unknown := set(names) - {row.alert for row in ROWS}:
        sys.exit(f"no row for {', '.join(sorted(unknown))}")
    rows = [row for row in ROWS if not names or row.alert in names]
    run("ip", "link", "set", "lo", "up")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="alerts-"))
    LOGS.mkdir(parents=True, exist_ok=True)
    for log in LOGS.glob("*.log"):
        log.unlink()
    world = World(folder, binaries, LOGS.resolve())
    trial = Trial(world, rows)
    try:
        world.start()
        trial.say("", f"{len(world.names) + 3} connections at two replicas")
        trial.run()
    finally:
        world.stop()
    print(f"\n{'alert':42} {'fires':>8} {'clears':>8}  beside it")
    order = [row.alert for row in ROWS]
    for alert, fired, cleared, beside in sorted(trial.results, key=lambda one: order.index(one[0])):
        print(f"{alert:42} {fired:6.1f} s {cleared:6.1f} s  {', '.join(sorted(beside))}")
    print(f"\n{len(trial.results)} of {len(rows)} alerts fired and cleared, with times divided by {FACTOR}; "
          f"{time.monotonic() - BEGUN:.0f} s; callers got {json.dumps(world.load.answers)}")
    for problem in trial.problems:
        print(f"FAIL  {problem}")
    if trial.problems:
        sys.exit(f"the processes' logs are in {LOGS}")


if __name__ == "__main__":
    main()
