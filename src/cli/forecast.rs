//! `forecast`: who will have to act, why and when, over the admin API. The daemon answers by pages, and here
//! they become one table: of a million connections there is a row for each tenant and reason.

use std::collections::BTreeMap;

use serde_json::Value;

use super::args::app_name;
use super::client::{ReachArgs, read};
use super::output::{shown, table};
use super::{ConfigPath, Failure, World, block_on};
use crate::api::admin::wire::{Forecast, ForecastRow};
use crate::domain::account::tenant_id;
use crate::domain::id::AppName;

/// Names that a row shows.
const EXAMPLES: usize = 3;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The app, as in [apps.APP]; every app without it
    #[arg(value_parser = app_name)]
    app: Option<AppName>,
    /// Only connections of this tenant
    #[arg(long, value_name = "ID", value_parser = tenant_id)]
    tenant: Option<String>,
    /// How many days to look ahead
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    /// Print it as the API has it, in one piece
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let client = args.reach.admin(config, world)?;
    let days = args.days.to_string();
    let filter = [
        ("app", args.app.as_ref().map(AppName::as_str)),
        ("tenant", args.tenant.as_deref()),
        ("days", Some(days.as_str())),
    ];
    let mut all = Together::default();
    let take = |page: Value| -> Result<(), Failure> {
        all.add(read(&page)?);
        Ok(())
    };
    block_on(client.each_page(&["admin", "v1", "forecast"], &filter, world, take))?;
    let forecast = all.forecast();
    if args.json {
        return world.output.json(&forecast);
    }
    if forecast.rows.is_empty() {
        world.output.say(&format!(
            "Of {} connections nothing is foreseen until {}. That is what can be known: docs/forecast.md.",
            forecast.read,
            shown(&forecast.until)
        ));
        return Ok(());
    }
    world.output.report(&screen(&forecast))
}

type Place = (String, Option<String>, String, String, Option<String>);

/// The pages so far.
#[derive(Default)]
struct Together {
    now: String,
    until: String,
    read: u64,
    rows: BTreeMap<Place, ForecastRow>,
}

impl Together {
    fn add(&mut self, page: Forecast) {
        if self.now.is_empty() {
            (self.now, self.until) = (page.now, page.until);
        }
        self.read = self.read.saturating_add(page.read);
        for row in page.rows {
            let ForecastRow { app, tenant, reason, certainty, detail, .. } = row.clone();
            let place = (app, tenant, reason, certainty, detail);
            let Some(there) = self.rows.get_mut(&place) else {
                self.rows.insert(place, row);
                continue;
            };
            there.connections = there.connections.saturating_add(row.connections);
            // RFC 3339 in UTC: the order of the text is that of time.
            there.from = row.from.min(std::mem::take(&mut there.from));
            there.to = row.to.max(std::mem::take(&mut there.to));
            there.examples.extend(row.examples);
            there.examples.truncate(EXAMPLES);
        }
    }

    fn forecast(self) -> Forecast {
        let mut rows: Vec<ForecastRow> = self.rows.into_values().collect();
        rows.sort_by(|one, other| (&one.from, &one.to, &one.app).cmp(&(&other.from, &other.to, &other.app)));
        Forecast { next_cursor: None, now: self.now, read: self.read, rows, until: self.until }
    }
}

fn screen(forecast: &Forecast) -> String {
    let or_dash = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), shown);
    let row = |row: &ForecastRow| {
        let examples: Vec<String> = row.examples.iter().map(|name| shown(name)).collect();
        let examples = Some(examples.join(", ")).filter(|names| !names.is_empty());
        vec![
            shown(&row.from),
            shown(&row.to),
            shown(&row.app),
            or_dash(row.tenant.as_deref()),
            shown(&row.reason),
            shown(&row.acts),
            shown(&row.certainty),
            if row.connections == 0 { "all".to_owned() } else { row.connections.to_string() },
            or_dash(row.detail.as_deref().or(examples.as_deref())),
        ]
    };
    let rows: Vec<Vec<String>> = forecast.rows.iter().map(row).collect();
    let head = ["FROM", "TO", "APP", "TENANT", "REASON", "ACTS", "CERTAINTY", "CONNECTIONS", "WHICH"];
    format!(
        "{}\n\nRead {} connections at {}; it looks ahead until {}. What each reason means: docs/forecast.md.",
        table(&head, &rows),
        forecast.read,
        shown(&forecast.now),
        shown(&forecast.until)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tenant: &str, from: &str, connections: u64) -> ForecastRow {
        ForecastRow {
            acts: "user".into(),
            app: "outlook".into(),
            certainty: "likely".into(),
            connections,
            examples: vec![format!("of {from}")],
            from: from.into(),
            reason: "grant_idle".into(),
            tenant: Some(tenant.into()),
            to: from.into(),
            ..ForecastRow::default()
        }
    }

    fn page(rows: Vec<ForecastRow>) -> Forecast {
        Forecast { now: "2026-11-23T00:00:00Z".into(), read: 100, rows, ..Forecast::default() }
    }

    #[test]
    fn pages_become_one_table_and_control_characters_are_not_shown() {
        let mut all = Together::default();
        all.add(page(vec![row("t", "2026-11-25T00:00:00Z", 2), row("u\u{1b}", "2026-11-24T00:00:00Z", 1)]));
        all.add(page(vec![row("t", "2026-11-26T00:00:00Z", 3)]));
        let forecast = all.forecast();
        assert_eq!((forecast.rows.len(), forecast.read), (2, 200));
        let text = screen(&forecast);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("2026-11-24T00:00:00Z"), "{text}");
        assert!(lines[2].contains("2026-11-25T00:00:00Z  2026-11-26T00:00:00Z  outlook  t"), "{text}");
        assert!(lines[2].contains("likely     5"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
