//! A service in Rust that gets a user's token from tokenward with Azure's own SDK.
//!
//! `IDENTITY_ENDPOINT` is tokenward's `/msi/token` and `IDENTITY_HEADER` the caller's API key; the SDK reads both.
//! The one argument is `{app}:{connection}`. It prints when the token ends, or what went wrong.

use azure_core::credentials::TokenCredential;
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    let connection = std::env::args().nth(1).expect("the argument is {app}:{connection}");
    let options = ManagedIdentityCredentialOptions {
        user_assigned_id: Some(UserAssignedId::ClientId(connection)),
        ..Default::default()
    };
    let credential = ManagedIdentityCredential::new(Some(options)).expect("IDENTITY_ENDPOINT is a URL");
    match credential.get_token(&["https://graph.microsoft.com/.default"], None).await {
        // Pass `credential` to the client of an Azure service; the token itself is seldom needed.
        Ok(token) => {
            println!("a token until {}", token.expires_on);
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
