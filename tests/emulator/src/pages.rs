//! The HTML pages. None needs a script, and all text from outside is escaped.

use std::fmt::Write as _;

/// Escapes text for an element or a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// The page for failures that never reach the app.
pub(crate) fn error(description: &str) -> String {
    page(
        "Sign in to your account",
        &format!(
            "<h1>Sorry, but we're having trouble signing you in.</h1><pre>{}</pre>",
            escape(description)
        ),
    )
}

/// The page for a request that an administrator has to approve.
pub(crate) fn admin_approval(app: &str, scopes: &[String], description: &str) -> String {
    page(
        "Need admin approval",
        &format!(
            "<h1>Need admin approval</h1><p>{} needs permission that only an admin can \
             grant.</p>{}<pre>{}</pre>",
            escape(app),
            list(scopes),
            escape(description)
        ),
    )
}

/// The page on which a user stays if the app is never called back.
pub(crate) fn stuck() -> String {
    page("Sign in to your account", "<h1>Help us protect your account</h1><p>This page leads nowhere.</p>")
}

/// The choice of the user. `action` is the URL that it is posted to.
pub(crate) fn choose_account(action: &str, users: &[String]) -> String {
    let mut buttons = String::new();
    for user in users {
        let user = escape(user);
        let _ = write!(buttons, "<button name=\"emu_user\" value=\"{user}\">{user}</button>");
    }
    let form = form(action, &format!("{buttons}<button name=\"emu_step\" value=\"cancel\">Cancel</button>"));
    page("Sign in to your account", &format!("<h1>Pick an account</h1>{form}"))
}

/// What the app asks for. `user` is whom it asks.
pub(crate) fn consent(action: &str, user: &str, app: &str, scopes: &[String], whole_tenant: bool) -> String {
    let for_whom = if whole_tenant { "for your organization" } else { "" };
    let user = escape(user);
    let form = form(
        action,
        &format!(
            "<input type=\"hidden\" name=\"emu_user\" value=\"{user}\">\
             <button name=\"emu_step\" value=\"accept\">Accept</button>\
             <button name=\"emu_step\" value=\"decline\">Cancel</button>"
        ),
    );
    page(
        "Permissions requested",
        &format!(
            "<h1>Permissions requested {for_whom}</h1><p>{user}: {} would like to</p>{}{form}",
            escape(app),
            list(scopes)
        ),
    )
}

/// `response_mode=form_post`: a form that a browser posts back to the app.
pub(crate) fn form_post(action: &str, parameters: &[(String, String)]) -> String {
    let mut fields = String::new();
    for (name, value) in parameters {
        let _ =
            write!(fields, "<input type=\"hidden\" name=\"{}\" value=\"{}\">", escape(name), escape(value));
    }
    let form = form(action, &format!("{fields}<button>Continue</button>"));
    page("Working...", &format!("{form}<script>document.forms[0].submit()</script>"))
}

/// The end of a sign-out.
pub(crate) fn signed_out() -> String {
    page(
        "Sign out",
        "<h1>You signed out of your account</h1><p>It's a good idea to close all browser windows.</p>",
    )
}

fn form(action: &str, content: &str) -> String {
    format!("<form method=\"post\" action=\"{}\">{content}</form>", escape(action))
}

fn list(items: &[String]) -> String {
    let items: String = items.iter().map(|item| format!("<li>{}</li>", escape(item))).collect();
    format!("<ul>{items}</ul>")
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\
         <style>body{{font:16px sans-serif;max-width:30em;margin:4em \
         auto}}button{{display:block;margin:.5em 0;padding:.5em 1em}}\
         pre{{white-space:pre-wrap}}</style></head><body>{body}<p><small>Entra emulator, not \
         Microsoft</small></p></body></html>",
        escape(title)
    )
}
