//! What the console says where there is nothing else to show.

use maud::{Markup, html};

use super::layout::plain;

/// What was done, after an act. The words are ours, whatever the address says.
pub(super) fn done(said: &str) -> Markup {
    let words = match said {
        "paused" => "It is paused: no token of it is handed out.",
        "resumed" => "It is resumed.",
        "refreshing" => "A refresh has begun. The timeline shows how it ends.",
        "promoted" => "It is preferred. Every replica follows within seconds.",
        "confirmed" => "The host is confirmed. Every replica follows within seconds.",
        "ended" => "It is over. What it has open learns so at its next request.",
        "others_ended" => "The others are over. What they have open learns so at its next request.",
        "rewrapping" => "Rewrapping has begun. The numbers show how far it is.",
        "retired" => "It is out of service. Remove its file, and then the credential at the authority.",
        _ => return html! {},
    };
    html! { div.note.calm role="status" { (words) } }
}

pub(super) fn no_session() -> Markup {
    let body = html! {
        p { "Nobody is known in this browser here, or the session is over." }
        p { "Run " code { "tokenward console" } " on the daemon's machine, and open the link that it "
            "prints." }
    };
    plain("Who are you?", &body)
}

pub(super) fn link_gone() -> Markup {
    let body = html! {
        p { "Links to the console work once and for a minute." }
        p { "Run " code { "tokenward console" } " again." }
    };
    plain("This link does not work any more", &body)
}

pub(super) fn from_elsewhere() -> Markup {
    let body = html! {
        p { "The form did not come from a page of this console, so nothing was done." }
        p { "Open the console, and do it there." }
    };
    plain("This came from elsewhere", &body)
}
