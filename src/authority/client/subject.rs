//! Verification of a user's token that a caller presents.

use super::OpenIdAuthority;
use crate::authority::id_token::{IdTokenFault, Rules, Subject, UnverifiedToken, UserTokenKind};
use crate::authority::{SubjectRefusal, UserToken};

impl OpenIdAuthority {
    pub(super) async fn check_user_token(
        &self,
        token: &UserToken<'_>,
        kind: UserTokenKind,
    ) -> Result<Subject, SubjectRefusal> {
        let doing = "checking a user's token";
        let token: &UnverifiedToken<'_> = &token.0;
        let metadata = self.documents.metadata(doing).await?;
        let rules = Rules { kind, ..self.app.rules(&metadata, None, None, self.parts.clock.now()) };
        let refuse = |fault: IdTokenFault| SubjectRefusal::Token(token.words(fault));
        // A token for somebody else is not worth a fetch of keys.
        token.claims_to_be_for(&rules).map_err(refuse)?;
        let keys = self.documents.keys(doing, &metadata).await?;
        let keys = self.documents.keys_for(&metadata, keys, token).await;
        token.verify_subject(&keys, &rules).map_err(refuse)
    }
}
