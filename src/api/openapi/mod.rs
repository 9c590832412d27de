//! `GET /openapi.json`: the HTTP contract for machines (OpenAPI 3.1), put together from the table of
//! operations, the limits of values, and the types that answers are written from. Tests hold the table to
//! the router both ways, and every answer that any test gets to what stands here of it.

mod operations;

use std::borrow::Cow;
use std::sync::OnceLock;

use utoipa::ToSchema;
use utoipa::openapi::path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, Ref, Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, HeaderBuilder, HttpMethod, InfoBuilder, LicenseBuilder, OpenApi,
    OpenApiBuilder, Paths, RefOr, Required, Response, ResponseBuilder, SecurityRequirement,
};

use self::operations::{Answer, Kind, Needs, OPERATIONS, Operation, Place, Sent};
use super::errors::ProblemDto;
use super::handlers::{
    ChecksDto, DeleteBody, DeleteItem, GetBody, GetItem, LimitsBody, MERGE_PATCH, MissingBody, MissingDto,
    PatchBody, ReadinessDto, ReferBody, ReferItem, ResultDto, RuleBody, SignBody, SignedDto,
};
use super::http1::{Method, status_title};
use crate::application::dto::{LifecycleDto, ListDto, ObjectDto, TenantDto};

/// The name of the scheme of tokens and keys in `Authorization`.
const BEARER: &str = "bearer";
/// The name of the scheme of keys in a field of their own.
const API_KEY: &str = "api_key";

/// The description as it is sent. It is made once.
pub(super) fn json() -> &'static [u8] {
    static JSON: OnceLock<Vec<u8>> = OnceLock::new();
    // Texts and numbers always have a JSON form.
    JSON.get_or_init(|| serde_json::to_vec(&document()).unwrap_or_default())
}

/// The description.
pub fn document() -> OpenApi {
    let mut paths = Paths::new();
    for operation in OPERATIONS {
        paths.add_path_operation(operation.path, vec![http_method(operation.method)], described(operation));
    }
    let info = InfoBuilder::new()
        .title("JustStorage")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(env!("CARGO_PKG_DESCRIPTION")))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .build();
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components())).build()
}

const fn http_method(method: Method) -> HttpMethod {
    match method {
        Method::Head => HttpMethod::Head,
        Method::Post => HttpMethod::Post,
        Method::Put => HttpMethod::Put,
        Method::Patch => HttpMethod::Patch,
        Method::Delete => HttpMethod::Delete,
        Method::Options => HttpMethod::Options,
        Method::Trace => HttpMethod::Trace,
        // No operation has another.
        Method::Get | Method::Connect | Method::Unknown => HttpMethod::Get,
    }
}

fn components() -> Components {
    let text = "A token (JWT), or an API key";
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(text)).build();
    let key = ApiKey::Header(ApiKeyValue::with_description("X-API-Key", "An API key: jsk_…"));
    let mut components = ComponentsBuilder::new()
        .security_scheme(BEARER, SecurityScheme::Http(bearer))
        .security_scheme(API_KEY, SecurityScheme::ApiKey(key));
    for (name, schema) in [
        named::<ObjectDto<'_>>(),
        named::<ListDto<'_>>(),
        named::<TenantDto<'_>>(),
        named::<LimitsBody>(),
        named::<LifecycleDto<'_>>(),
        named::<RuleBody>(),
        named::<PatchBody>(),
        named::<SignBody>(),
        named::<SignedDto>(),
        named::<MissingBody>(),
        named::<MissingDto<'_>>(),
        named::<GetBody<'_>>(),
        named::<GetItem<'_>>(),
        named::<DeleteBody<'_>>(),
        named::<DeleteItem<'_>>(),
        named::<ReferBody<'_>>(),
        named::<ReferItem<'_>>(),
        named::<ResultDto<'_>>(),
        named::<ReadinessDto>(),
        named::<ChecksDto>(),
        named::<ProblemDto<'_>>(),
    ] {
        components = components.schema(name, schema);
    }
    components.build()
}

fn named<T: ToSchema>() -> (String, RefOr<Schema>) {
    (T::name().into_owned(), T::schema())
}

fn described(operation: &Operation) -> utoipa::openapi::path::Operation {
    let mut builder = OperationBuilder::new()
        .operation_id(Some(operation.id))
        .summary(Some(operation.summary))
        .tag(operation.tag);
    for parameter in operation.parameters {
        builder = builder.parameter(described_parameter(parameter));
    }
    if operation.needs != Needs::Nothing {
        let scopes = || match operation.needs {
            Needs::Permission(permission) => vec![permission.as_str()],
            Needs::Nothing | Needs::Credential => vec![],
        };
        builder = builder
            .security(SecurityRequirement::new(BEARER, scopes()))
            .security(SecurityRequirement::new(API_KEY, scopes()));
    }
    builder = match operation.sent {
        Sent::Nothing => builder,
        Sent::Bytes => {
            let content = ContentBuilder::new().schema(Some(bytes())).build();
            builder.request_body(Some(RequestBodyBuilder::new().content("*/*", content).build()))
        }
        Sent::Limits => builder.request_body(Some(json_body("application/json", LimitsBody::name()))),
        Sent::LifecycleRule => builder.request_body(Some(json_body("application/json", RuleBody::name()))),
        Sent::Patch => builder.request_body(Some(json_body(MERGE_PATCH, PatchBody::name()))),
        Sent::SignRequest => builder.request_body(Some(json_body("application/json", SignBody::name()))),
        Sent::Digests => builder.request_body(Some(json_body("application/json", MissingBody::name()))),
        Sent::GetBatch => builder.request_body(Some(json_body("application/json", GetBody::name()))),
        Sent::DeleteBatch => builder.request_body(Some(json_body("application/json", DeleteBody::name()))),
        Sent::Archive => {
            let content = ContentBuilder::new().schema(Some(bytes())).build();
            let references = Ref::from_schema_name(ReferBody::name());
            let references = ContentBuilder::new().schema(Some(references)).build();
            let body = RequestBodyBuilder::new().content("application/x-tar", content);
            let body = body.content("application/json", references);
            builder.request_body(Some(body.required(Some(Required::True)).build()))
        }
    };
    for (status, answer) in operation.answers() {
        builder = builder.response(status.to_string(), described_answer(status, answer, operation.method));
    }
    builder.build()
}

fn json_body(media_type: &str, name: Cow<'static, str>) -> RequestBody {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(name))).build();
    RequestBodyBuilder::new().content(media_type, content).required(Some(Required::True)).build()
}

fn described_parameter(parameter: &operations::Parameter) -> Parameter {
    let (place, required) = match parameter.place {
        Place::Path => (ParameterIn::Path, Required::True),
        Place::Query(true) => (ParameterIn::Query, Required::True),
        Place::Query(false) => (ParameterIn::Query, Required::False),
        Place::Header => (ParameterIn::Header, Required::False),
    };
    let kind = match parameter.kind {
        Kind::Text => Type::String,
        Kind::Integer => Type::Integer,
    };
    let mut schema = ObjectBuilder::new().schema_type(kind);
    if let Some(pattern) = parameter.pattern {
        schema = schema.pattern(Some(pattern));
    }
    if let Some((least, most)) = parameter.bounds {
        schema = match parameter.kind {
            Kind::Integer => schema.minimum(Some(least as f64)).maximum(Some(most as f64)),
            Kind::Text => schema.min_length(Some(least)).max_length(Some(most)),
        };
    }
    if !parameter.words.is_empty() {
        schema = schema.enum_values(Some(parameter.words.iter().copied()));
    }
    let builder = ParameterBuilder::new().name(parameter.name).parameter_in(place).required(required);
    builder.description(Some(parameter.description)).schema(Some(schema.build())).build()
}

fn bytes() -> Schema {
    // OpenAPI 3.1: what is not said of bytes is that they are text.
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).build().into()
}

fn described_answer(status: u16, answer: Answer, method: Method) -> Response {
    let text = || ObjectBuilder::new().schema_type(Type::String).build();
    let header =
        |description: &str| HeaderBuilder::new().schema(Some(text())).description(Some(description)).build();
    let mut builder = ResponseBuilder::new()
        .description(answer.description().unwrap_or(status_title(status)))
        .header("X-Request-Id", header("The caller's own id, or one that the server made"));
    for (name, description) in answer.fields(status) {
        builder = builder.header(*name, header(description));
    }
    if method == Method::Head {
        return builder.build();
    }
    let content = |schema: RefOr<Schema>| ContentBuilder::new().schema(Some(schema)).build();
    let of = |name: Cow<'static, str>| RefOr::Ref(Ref::from_schema_name(name));
    match answer {
        Answer::Nothing | Answer::Upload => builder,
        // Several ranges; one comes as what it is of.
        Answer::Bytes if status == 206 => builder
            .content("*/*", content(bytes().into()))
            .content("multipart/byteranges", content(bytes().into())),
        Answer::Bytes => builder.content("*/*", content(bytes().into())),
        Answer::Archive => builder.content("application/x-tar", content(bytes().into())),
        // One on each line.
        Answer::Results => builder.content("application/x-ndjson", content(of(ResultDto::name()))),
        Answer::Object => builder.content("application/json", content(of(ObjectDto::name()))),
        Answer::List => builder.content("application/json", content(of(ListDto::name()))),
        Answer::Tenant => builder.content("application/json", content(of(TenantDto::name()))),
        Answer::Lifecycle => builder.content("application/json", content(of(LifecycleDto::name()))),
        Answer::SignedUrl => builder.content("application/json", content(of(SignedDto::name()))),
        Answer::Missing => builder.content("application/json", content(of(MissingDto::name()))),
        Answer::Readiness => builder.content("application/json", content(of(ReadinessDto::name()))),
        Answer::ReadinessOrProblem => builder
            .content("application/json", content(of(ReadinessDto::name())))
            .content("application/problem+json", content(of(ProblemDto::name()))),
        Answer::Json => {
            let schema = ObjectBuilder::new().build();
            builder.content("application/json", content(RefOr::T(schema.into())))
        }
        Answer::Text => builder.content("text/plain", content(RefOr::T(text().into()))),
        Answer::Problem => builder.content("application/problem+json", content(of(ProblemDto::name()))),
    }
    .build()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::api::authentication::{needed_permission, needs_credential};
    use crate::api::router::Route;
    use crate::domain::entities::{KeyPath, Scope};
    use crate::domain::value_objects::{
        ContentHash, Key, Namespace, ObjectId, StorageClass, TenantId, TenantMark, UploadId,
    };

    /// Every route with its path here. A new one does not compile until it has its own.
    fn path_of(route: &Route) -> &'static str {
        match route {
            Route::Root => "/",
            Route::Health => "/health",
            Route::Ready => "/health/ready",
            Route::OpenApi => "/openapi.json",
            Route::Metrics => "/metrics",
            Route::Objects => "/v1/objects",
            Route::Object(_) => "/v1/objects/{id}",
            Route::ObjectInfo(_) => "/v1/objects/{id}/info",
            Route::Key(_) => "/v1/keys/{namespace}/{tenant_id}/{key}",
            Route::Blob(_) => "/v1/blobs/{digest}",
            Route::MissingBlobs => "/v1/blobs/missing",
            Route::Tenant(_) => "/v1/tenants/{tenant_id}",
            Route::Lifecycle(_) => "/v1/namespaces/{namespace}/lifecycle",
            Route::Sign => "/v1/sign",
            Route::BatchGet => "/v1/batch/get",
            Route::BatchPut => "/v1/batch/put",
            Route::BatchDelete => "/v1/batch/delete",
            Route::Uploads => "/v1/uploads",
            Route::Upload(_) => "/v1/uploads/{upload_id}",
        }
    }

    fn routes() -> Vec<Route> {
        let (id, tenant_id) = (ObjectId::generate(), TenantId::parse("acme").unwrap());
        let scope = Scope { namespace: Namespace::parse("models").unwrap(), tenant_id: tenant_id.clone() };
        let namespace = scope.namespace.clone();
        let key = KeyPath { scope, key: Key::parse("k").unwrap() };
        vec![
            Route::Root,
            Route::Health,
            Route::Ready,
            Route::OpenApi,
            Route::Metrics,
            Route::Objects,
            Route::Object(id),
            Route::ObjectInfo(id),
            Route::Key(key),
            Route::Blob(ContentHash::from_bytes([0; 32])),
            Route::MissingBlobs,
            Route::Tenant(tenant_id),
            Route::Lifecycle(namespace),
            Route::Sign,
            Route::BatchGet,
            Route::BatchPut,
            Route::BatchDelete,
            Route::Uploads,
            Route::Upload(UploadId::generate(StorageClass::Hot, TenantMark::from_u64(1))),
        ]
    }

    #[test]
    fn every_method_of_every_route_is_described_and_no_other() {
        let mut routed = BTreeSet::new();
        for route in routes() {
            for method in route.methods() {
                let needs = match needed_permission(&route, *method) {
                    Some(permission) => Needs::Permission(permission),
                    None if needs_credential(&route) => Needs::Credential,
                    None => Needs::Nothing,
                };
                routed.insert(format!("{} {} {needs:?}", method.as_str(), path_of(&route)));
            }
        }
        let described: BTreeSet<_> = OPERATIONS
            .iter()
            .map(|operation| {
                format!("{} {} {:?}", operation.method.as_str(), operation.path, operation.needs)
            })
            .collect();
        assert_eq!(routed, described);
        assert_eq!(described.len(), OPERATIONS.len(), "none is described twice");
    }

    #[test]
    fn the_document_says_of_each_operation_what_the_table_says() {
        let document: serde_json::Value = serde_json::from_slice(json()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
        let mut ids = BTreeSet::new();
        for operation in OPERATIONS {
            let described = &document["paths"][operation.path][operation.method.as_str().to_lowercase()];
            assert!(ids.insert(described["operationId"].as_str().unwrap()), "{described}");
            let statuses: BTreeSet<_> = described["responses"].as_object().unwrap().keys().cloned().collect();
            let expected: BTreeSet<_> = operation.answers().keys().map(u16::to_string).collect();
            assert_eq!(statuses, expected);
            assert_eq!(described.get("security").is_some(), operation.needs != Needs::Nothing);
            let in_path = operation.path.matches('{').count();
            let told = described["parameters"].as_array().map_or(0, |parameters| {
                parameters.iter().filter(|parameter| parameter["in"] == "path").count()
            });
            assert_eq!(in_path, told, "{}", operation.path);
        }
        let text = std::str::from_utf8(json()).unwrap();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name} is described");
        }
    }

    /// The codes of problems by their statuses, as the source of the API makes them.
    fn codes_of_source() -> BTreeMap<String, BTreeSet<u16>> {
        let mut codes: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        let mut directories = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api"))];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let text: String = text.split("#[cfg(test)]").next().unwrap().split_whitespace().collect();
                for made in text.match_indices("::new(").map(|(at, found)| &text[at + found.len()..]) {
                    let (status, rest) = made.split_at_checked(3).unwrap_or_default();
                    let code = rest.strip_prefix(",\"").and_then(|rest| rest.split('"').next());
                    if let (Ok(status), Some(code)) = (status.parse(), code) {
                        codes.entry(code.to_owned()).or_default().insert(status);
                    }
                }
            }
        }
        codes
    }

    #[test]
    fn every_status_of_a_problem_is_described_somewhere() {
        let described: BTreeSet<u16> =
            OPERATIONS.iter().flat_map(|operation| operation.answers().into_keys()).collect();
        let codes = codes_of_source();
        assert!(codes.len() > 15, "the source is read: {codes:?}");
        for (code, statuses) in codes {
            // A method that a path does not have is no operation.
            let missing: Vec<_> =
                statuses.into_iter().filter(|status| *status != 405 && !described.contains(status)).collect();
            assert!(missing.is_empty(), "{code}: {missing:?}");
        }
    }
}
