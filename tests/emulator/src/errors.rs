//! AADSTS errors: the `error`, status and suberror of each number, and the body they are sent in.

use serde_json::{Map, Value, json};

use crate::clock::Moment;
use crate::random;

/// A failure as Entra reports it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AadError {
    pub(crate) code: u32,
    pub(crate) error: String,
    pub(crate) suberror: Option<String>,
    pub(crate) status: u16,
    pub(crate) message: String,
    /// A claims request the client must pass to the next sign-in, as JSON text.
    pub(crate) claims: Option<Box<str>>,
    pub(crate) retry_after: Option<Box<str>>,
}

impl AadError {
    /// Makes the error with this number and its usual message.
    pub(crate) fn new(code: u32) -> Self {
        let row = row(code);
        Self {
            code,
            error: row.error.to_owned(),
            suberror: row.suberror.map(str::to_owned),
            status: row.status,
            message: row.message.to_owned(),
            claims: None,
            retry_after: None,
        }
    }

    /// Makes it with another message.
    pub(crate) fn because(code: u32, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::new(code) }
    }

    pub(crate) fn with_claims(mut self, claims: impl Into<Box<str>>) -> Self {
        self.claims = Some(claims.into());
        self
    }

    pub(crate) fn with_error(mut self, error: impl Into<String>) -> Self {
        self.error = error.into();
        self
    }

    /// Converts it for the authorize endpoint, which has no `invalid_grant`.
    pub(crate) fn for_redirect(mut self) -> Self {
        if self.error == "invalid_grant" {
            let error = if self.code == 65001 { "consent_required" } else { "interaction_required" };
            self.error = error.to_owned();
        }
        self
    }

    /// Returns the text of `error_description`.
    pub(crate) fn description(&self, ids: &Ids, at: Moment) -> String {
        format!(
            "AADSTS{}: {}\r\nTrace ID: {}\r\nCorrelation ID: {}\r\nTimestamp: {}",
            self.code,
            self.message,
            ids.trace,
            ids.correlation,
            at.in_error_body()
        )
    }

    /// Returns the JSON body of a token endpoint failure.
    pub(crate) fn body(&self, ids: &Ids, at: Moment, base: &str) -> Map<String, Value> {
        let mut body = Map::new();
        body.insert("error".into(), json!(self.error));
        body.insert("error_description".into(), json!(self.description(ids, at)));
        body.insert("error_codes".into(), json!([self.code]));
        body.insert("timestamp".into(), json!(at.in_error_body()));
        body.insert("trace_id".into(), json!(ids.trace));
        body.insert("correlation_id".into(), json!(ids.correlation));
        body.insert("error_uri".into(), json!(self.uri(base)));
        if let Some(suberror) = &self.suberror {
            body.insert("suberror".into(), json!(suberror));
        }
        if let Some(claims) = &self.claims {
            body.insert("claims".into(), json!(claims));
        }
        body
    }

    pub(crate) fn uri(&self, base: &str) -> String {
        format!("{base}/error?code={}", self.code)
    }

    /// Returns true if Entra shows this error on its own page, so that the app's callback is never called.
    pub(crate) fn stays_on_page(&self) -> bool {
        matches!(
            self.code,
            50011
                | 700016
                | 700011
                | 90002
                | 900023
                | 90013
                | 900971
                | 50105
                | 1000031
                | 9002331
                | 9002332
                | 50034
                | 50057
        )
    }
}

/// The two ids every answer carries.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    pub(crate) trace: String,
    pub(crate) correlation: String,
}

impl Ids {
    /// Makes a new trace id, and takes the caller's correlation id if it is a GUID.
    pub(crate) fn new(client_request_id: Option<&str>) -> Self {
        let correlation = client_request_id.filter(|id| random::is_guid(id)).map(str::to_owned);
        Self { trace: random::guid(), correlation: correlation.unwrap_or_else(random::guid) }
    }
}

struct Row {
    error: &'static str,
    status: u16,
    suberror: Option<&'static str>,
    message: &'static str,
}

/// Returns the usual values of a number. Unknown numbers give a plain `invalid_request`.
fn row(code: u32) -> Row {
    const BAD: Option<&str> = Some("bad_token");
    const BASIC: Option<&str> = Some("basic_action");
    const MESSAGE: Option<&str> = Some("message_only");
    const EXPIRED: Option<&str> = Some("token_expired");
    const CONSENT: Option<&str> = Some("consent_required");
    const PASSWORD: Option<&str> = Some("user_password_expired");
    let (error, status, suberror, message) = match code {
        16000 => (
            "interaction_required",
            400,
            None,
            "User account does not exist in tenant and cannot access the application. The account needs to \
             be added as an external user in the tenant first.",
        ),
        28000 => (
            "invalid_scope",
            400,
            None,
            "Provided value for the input parameter scope is not valid because it contains more than one \
             resource.",
        ),
        28002 | 28003 => (
            "invalid_scope",
            400,
            None,
            "Provided value for the input parameter scope is not valid when requesting an access token.",
        ),
        50011 => (
            "invalid_request",
            400,
            None,
            "The redirect URI specified in the request does not match the redirect URIs configured for the \
             application.",
        ),
        50012 | 50027 => {
            ("invalid_client", 401, None, "Invalid JWT token: the token could not be read or validated.")
        }
        50013 | 500131 | 500133 => ("invalid_grant", 400, None, "Assertion failed signature validation."),
        50020 | 500208 | 51004 => (
            "access_denied",
            400,
            None,
            "User account from identity provider does not exist in tenant and cannot access the application \
             in that tenant.",
        ),
        500011 => ("invalid_resource", 400, None, "The resource principal was not found in the tenant."),
        500021 | 500022 | 500212 | 500213 => {
            ("access_denied", 400, None, "Access to the tenant is denied by policy.")
        }
        50033 | 50087 | 90006 | 90012 | 90024 | 90090 => {
            ("temporarily_unavailable", 503, None, "A transient error has occurred. Please try again.")
        }
        70012 => (
            "server_error",
            500,
            None,
            "A server error occurred while authenticating the user. Please try again.",
        ),
        50034 => (
            "invalid_grant",
            400,
            None,
            "The user account does not exist in the directory. To sign into this application, the account \
             must be added to the directory.",
        ),
        50014 => ("invalid_grant", 400, None, "Guest user's invitation has not been redeemed yet."),
        50049 => ("invalid_instance", 400, None, "Unknown or invalid instance."),
        50053 => (
            "invalid_grant",
            400,
            None,
            "The account is locked, you've tried to sign in too many times with an incorrect user ID or \
             password.",
        ),
        50055 | 50144 => ("invalid_grant", 400, PASSWORD, "The password is expired."),
        50056 | 50126 => {
            ("invalid_grant", 400, None, "Error validating credentials due to invalid username or password.")
        }
        50057 => ("invalid_grant", 400, None, "The user account is disabled."),
        50058 => ("login_required", 400, None, "A silent sign-in request was sent but no user is signed in."),
        50059 | 50128 | 90019 => (
            "invalid_request",
            400,
            None,
            "No tenant-identifying information found in either the request or implied by any provided \
             credentials.",
        ),
        50072 | 50079 => (
            "invalid_grant",
            400,
            BASIC,
            "Due to a configuration change made by your administrator, or because you moved to a new \
             location, you must enroll in multi-factor authentication.",
        ),
        50074 | 50076 | 50078 => (
            "invalid_grant",
            400,
            BASIC,
            "Due to a configuration change made by your administrator, or because you moved to a new \
             location, you must use multi-factor authentication.",
        ),
        50085 => (
            "invalid_grant",
            400,
            None,
            "Refresh token needs social IDP login. Have user try signing-in again.",
        ),
        50089 => ("invalid_grant", 400, None, "Authentication failed due to flow token expired."),
        50097 | 50129 | 50155 | 50187 => {
            ("interaction_required", 400, None, "Device authentication is required.")
        }
        50105 => (
            "interaction_required",
            400,
            None,
            "The signed in user is not assigned to a role for the application.",
        ),
        50131 | 53003 | 53011 | 530032 | 530034 | 530035 => (
            "invalid_grant",
            400,
            MESSAGE,
            "Access has been blocked by Conditional Access policies. The access policy does not allow token \
             issuance.",
        ),
        50132 | 50133 => (
            "invalid_grant",
            400,
            None,
            "The session is not valid due to password expiration or recent password change.",
        ),
        50146 | 50147 | 501491 => {
            ("invalid_request", 400, None, "Invalid size or method of Code_Challenge parameter.")
        }
        50148 | 501481 => (
            "invalid_grant",
            400,
            None,
            "The Code_Verifier does not match the code_challenge supplied in the authorization request.",
        ),
        50158 => ("interaction_required", 400, None, "External security challenge was not satisfied."),
        50173 => (
            "invalid_grant",
            400,
            BAD,
            "The provided grant has expired due to it being revoked, a fresh auth token is needed. The user \
             might have changed or reset their password.",
        ),
        50194 => (
            "invalid_request",
            400,
            None,
            "Application is not configured as a multi-tenant application. Usage of the /common endpoint is \
             not supported for such apps.",
        ),
        50196 => (
            "invalid_grant",
            400,
            None,
            "The server terminated an operation because it encountered a client request loop. Please \
             contact your app vendor.",
        ),
        500112 => (
            "invalid_grant",
            400,
            None,
            "The reply address does not match the reply address provided when requesting Authorization code.",
        ),
        53000 | 53001 | 53002 | 530003 => {
            ("interaction_required", 400, None, "The device is not compliant with the access policy.")
        }
        53004 | 53010 => (
            "interaction_required",
            400,
            None,
            "User needs to complete Multi-factor authentication registration process before accessing this \
             content.",
        ),
        54005 => (
            "invalid_grant",
            400,
            None,
            "OAuth2 Authorization code was already redeemed, please retry with a new valid code or use an \
             existing refresh token.",
        ),
        65001 => (
            "invalid_grant",
            400,
            CONSENT,
            "The user or administrator has not consented to use the application. Send an interactive \
             authorization request for this user and resource.",
        ),
        65004 => ("access_denied", 400, None, "User declined to consent to access the app."),
        65005 | 650052 | 650054 | 650056 | 650057 => (
            "invalid_client",
            400,
            None,
            "Invalid resource. The client has requested access to a resource which is not listed in the \
             requested permissions in the client's application registration.",
        ),
        70000 => (
            "invalid_grant",
            400,
            BAD,
            "The user could not be authenticated as the grant is expired. The user must sign in again.",
        ),
        70001 | 7000112 | 7000114 => ("unauthorized_client", 400, None, "The application is disabled."),
        700003 => ("invalid_grant", 400, None, "Device object was not found in the tenant directory."),
        700005 => (
            "invalid_grant",
            400,
            None,
            "Provided Authorization Code is intended to use against other tenant, thus rejected.",
        ),
        70002 | 7000215 => (
            "invalid_client",
            401,
            None,
            "Invalid client secret provided. Ensure the secret being sent in the request is the client \
             secret value, not the client secret ID.",
        ),
        70003 => ("unsupported_grant_type", 400, None, "The app requested an unsupported grant type."),
        70007 | 70005 | 700054 => (
            "unsupported_response_type",
            400,
            None,
            "The app requested a response type or mode that is not supported or not enabled.",
        ),
        70008 => (
            "invalid_grant",
            400,
            None,
            "The provided authorization code or refresh token has expired due to inactivity. Send a new \
             interactive authorization request for this user and resource.",
        ),
        700081 | 700084 => (
            "invalid_grant",
            400,
            EXPIRED,
            "The refresh token was issued to a single page app (SPA), and therefore has a fixed, limited \
             lifetime, which cannot be extended.",
        ),
        700082 => (
            "invalid_grant",
            400,
            BAD,
            "The refresh token has expired due to inactivity. The token was inactive for 90.00:00:00.",
        ),
        700016 | 700011 => (
            "unauthorized_client",
            400,
            None,
            "Application was not found in the directory. This can happen if the application has not been \
             installed by the administrator of the tenant or consented to by any user in the tenant.",
        ),
        70011 => {
            ("invalid_scope", 400, None, "The provided value for the input parameter 'scope' is not valid.")
        }
        700022 => (
            "invalid_scope",
            400,
            None,
            "The provided value for the input parameter scope is not valid because it contains more than \
             one resource.",
        ),
        1002012 => (
            "invalid_scope",
            400,
            None,
            "The provided value for scope is not valid. Client credential flows must have a scope value \
             with /.default suffixed to the resource identifier (application ID URI).",
        ),
        70021 => (
            "invalid_client",
            401,
            None,
            "No matching federated identity record found for presented assertion.",
        ),
        700021 => (
            "invalid_client",
            401,
            None,
            "Client assertion application identifier doesn't match 'client_id' parameter.",
        ),
        700023 => {
            ("invalid_client", 401, None, "Client assertion audience claim does not match Realm issuer.")
        }
        700024 => ("invalid_client", 401, None, "Client assertion is not within its valid time range."),
        700027 => (
            "invalid_client",
            401,
            None,
            "Client assertion failed signature validation. The certificate with identifier used to sign the \
             client assertion is not registered on application.",
        ),
        7000214 => ("invalid_client", 401, None, "Certificate has been revoked."),
        7000274 | 7000277 => {
            ("invalid_client", 401, None, "The client assertion's certificate is not acceptable.")
        }
        1000502 => (
            "invalid_client",
            401,
            None,
            "The provided certificate is not within its specified validity window.",
        ),
        70043 => (
            "invalid_grant",
            400,
            EXPIRED,
            "The refresh token has expired or is invalid due to sign-in frequency checks by conditional \
             access.",
        ),
        700229 => (
            "invalid_client",
            401,
            None,
            "Only app-only tokens can be used as Federated Identity Credentials for AAD issuer.",
        ),
        7000218 => (
            "invalid_client",
            401,
            None,
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
        ),
        700025 => (
            "invalid_client",
            401,
            None,
            "Client is public so neither 'client_assertion' nor 'client_secret' should be presented.",
        ),
        7000222 => (
            "invalid_client",
            401,
            None,
            "The provided client secret keys for app are expired. Visit the Azure portal to create new keys \
             for your app.",
        ),
        90002 => (
            "invalid_tenant",
            400,
            None,
            "Tenant not found. Check to make sure you have the correct tenant ID and are signing into the \
             correct cloud.",
        ),
        900023 => (
            "invalid_request",
            400,
            None,
            "Specified tenant identifier is neither a valid DNS name, nor a valid external domain.",
        ),
        90009 | 90014 | 900971 => {
            ("invalid_request", 400, None, "A required field is missing from the request.")
        }
        900144 => {
            ("invalid_request", 400, None, "The request body must contain a parameter that is missing.")
        }
        900561 => {
            ("invalid_request", 400, None, "The endpoint only accepts POST requests. Received a GET request.")
        }
        90023 | 90100 => ("invalid_request", 400, None, "Invalid STS request."),
        9002313 => ("invalid_request", 400, None, "Invalid request. Request is malformed or invalid."),
        9002325 => (
            "invalid_request",
            400,
            None,
            "Proof Key for Code Exchange is required for cross-origin authorization code redemption.",
        ),
        9002327 => (
            "invalid_request",
            400,
            None,
            "Tokens issued for the 'Single-Page Application' client-type may only be redeemed via \
             cross-origin requests.",
        ),
        9002326 => (
            "invalid_request",
            400,
            None,
            "Cross-origin token redemption is permitted only for the 'Single-Page Application' client-type.",
        ),
        9002331 => (
            "invalid_request",
            400,
            None,
            "Application is configured for use by Microsoft Account users only. Please use the /consumers \
             endpoint to serve this request.",
        ),
        9002332 => (
            "invalid_request",
            400,
            None,
            "Application is configured for use by Azure Active Directory users only. Please do not use the \
             /consumers endpoint to serve this request.",
        ),
        90033 => ("temporarily_unavailable", 503, None, "A transient error has occurred. Please try again."),
        90036 | 90092 => (
            "server_error",
            500,
            None,
            "An unexpected, non-retryable error stemming from the directory service has occurred.",
        ),
        90055 => ("temporarily_unavailable", 429, None, "Tenant requests exceed the throttle limit."),
        90072 => (
            "interaction_required",
            400,
            None,
            "User account from identity provider does not exist in tenant. The account needs to be added as \
             an external user in the tenant first.",
        ),
        90094 | 90095 => (
            "access_denied",
            400,
            None,
            "Admin consent is required for the permissions requested by this application.",
        ),
        90099 => ("unauthorized_client", 400, None, "The application has not been authorized in the tenant."),
        900382 | 900432 => {
            ("invalid_request", 400, None, "Confidential Client is not supported in Cross Cloud request.")
        }
        1000031 => (
            "access_denied",
            400,
            None,
            "The application cannot be accessed at this time. Contact your administrator.",
        ),
        _ => ("invalid_request", 400, None, "The request cannot be served."),
    };
    Row { error, status, suberror, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_carries_every_field_of_the_real_one() {
        let ids = Ids::new(Some("0e1f3f6e-7d3b-4b39-8d2c-000000000001"));
        let body = AadError::new(700082).body(&ids, Moment::BEGINNING, "http://emu");
        assert_eq!(body["error"], "invalid_grant");
        assert_eq!(body["suberror"], "bad_token");
        assert_eq!(body["error_codes"], json!([700082]));
        assert_eq!(body["timestamp"], "1970-01-01 00:00:00Z");
        assert_eq!(body["correlation_id"], "0e1f3f6e-7d3b-4b39-8d2c-000000000001");
        let text = body["error_description"].as_str().unwrap();
        assert!(text.starts_with("AADSTS700082: "), "{text}");
        assert!(
            text.contains("\r\nTrace ID: ") && text.ends_with("\r\nTimestamp: 1970-01-01 00:00:00Z"),
            "{text}"
        );
    }

    #[test]
    fn statuses_follow_the_kind_of_failure() {
        for (code, status) in [(7000215, 401), (7000222, 401), (90033, 503), (50196, 400), (70008, 400)] {
            assert_eq!(AadError::new(code).status, status, "{code}");
        }
    }
}
