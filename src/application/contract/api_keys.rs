//! API keys.

use crate::application::fakes::an_api_key;
use crate::application::ports::{ApiKeyRepository, KeyStanding};
use crate::domain::entities::{ApiKey, ApiKeyId, Reach};
use crate::domain::value_objects::Timestamp;

/// Runs on an empty repository; `put` gives out a key, or changes one.
pub(crate) async fn api_key_contract(repository: &impl ApiKeyRepository, put: impl AsyncFn(&ApiKey)) {
    let key = an_api_key(ApiKeyId::from_u64(u64::MAX));
    assert_eq!(repository.find_api_key(key.id, KeyStanding::Unproven).await.unwrap(), None);
    let moment = Timestamp::from_millis;
    let everything = ApiKey {
        reach: Reach::everything(),
        label: None,
        expires_at: Some(moment(1)),
        ..an_api_key(ApiKeyId::from_u64(1))
    };
    let nothing = ApiKey {
        reach: Reach::parse("acme", Some([])).unwrap(),
        permissions: [].into_iter().collect(),
        ..an_api_key(ApiKeyId::from_u64(2))
    };
    for key in [&key, &everything, &nothing] {
        put(key).await;
    }
    for key in [&key, &everything, &nothing] {
        for standing in [KeyStanding::Unproven, KeyStanding::Proven] {
            assert_eq!(repository.find_api_key(key.id, standing).await.unwrap().as_ref(), Some(key));
        }
    }
    let revoked = ApiKey { revoked_at: Some(moment(7)), ..key };
    put(&revoked).await;
    let found = repository.find_api_key(revoked.id, KeyStanding::Proven).await.unwrap();
    assert_eq!(found, Some(revoked), "it is known, and no good");
}
