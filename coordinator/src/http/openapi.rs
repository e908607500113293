//! The document of the API, and the page that shows it.
//!
//! Summaries, parameters and bodies stand at the handlers and at the wire types; what holds for every operation
//! (headers, errors, examples) is added here, once.

mod answers;
mod errors;
mod parameters;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, body::Bytes, http::header, response::Redirect, routing::get};
use drover_protocol::{
    log::Direction,
    problem::{Code, Problem},
};
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{
        self, KnownFormat, ObjectBuilder, Ref, RefOr, Required, SchemaFormat,
        path::{Operation, Parameter, PathItem},
        schema::{ArrayItems, Schema, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use self::{answers::Examples, errors::Nature};
use crate::app::App;

/// Where the document lies.
pub const DOCUMENT_PATH: &str = "/api/v1/openapi.json";

const SCHEMAS: &str = "#/components/schemas/";

#[derive(OpenApi)]
#[openapi(
    info(title = "Drover", description = include_str!("openapi/description.md")),
    servers((url = "/", description = "This coordinator")),
    tags(
        (name = "Key", description = "API keys: the caller's own, and named ones with rights of their own."),
        (name = "Robot", description = "Installed agents, each bound to one account of one host; and the join tokens with \
            which they come."),
        (name = "Robot group", description = "Named sets of robots. The group `all` always exists and holds every robot."),
        (name = "Process", description = "Named automations."),
        (name = "Process version", description = "Immutable packages of a process; one of them is active."),
        (name = "Job", description = "Runs of a process version for a robot or a group."),
        (name = "Queue", description = "Named, ordered lists of tasks, with the rules that hold for each task in them."),
        (name = "Task", description = "Items of work in a queue: added, taken by one holder at a time, worked on and ended."),
        (name = "Trigger", description = "Rules that start jobs by themselves: at times, or to keep jobs running."),
        (name = "Resource", description = "Named values for processes: texts, numbers, credentials, secrets, \
            calendars; with values of their own for robots and groups."),
        (name = "Storage", description = "Folders of files, of any size, that people and jobs read and write; the folders \
            `jobs/<job id>` hold the artifacts of jobs. Links open a single file without a key."),
        (name = "Log", description = "What robots said about their jobs."),
        (name = "Account", description = "The account of the key, who is asking, users and their roles, signing in, the \
            audit trail; and all accounts, for those who run the coordinator."),
        (name = "Agent", description = "What agents say; with the robot's key, except to join."),
        (name = "System", description = "Operation of the coordinator itself."),
        (name = "Webhook", description = "Addresses outside to which events are sent, signed, until they are taken."),
        (name = "Alert", description = "Rules that say what people want to be told of, and what was raised by them.")
    ),
    components(schemas(Problem, Direction))
)]
struct Base;

/// A body of bytes, for annotations.
pub struct Binary;

impl ToSchema for Binary {}

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

/// The document before the routes are added.
pub fn base() -> openapi::OpenApi {
    let mut document = Base::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let reference: String = Code::ALL
        .iter()
        .map(|code| format!("\n| {} | `{}` | {} |", code.status(), code.as_str(), code.explanation().trim()))
        .collect();
    let description = document.info.description.take().unwrap_or_default();
    document.info.description =
        Some(format!("{description}\n| status | code | when, and what helps |\n|---|---|---|{reference}"));
    document
}

/// The whole document: what holds for every operation is added here.
pub fn finish(mut document: openapi::OpenApi) -> openapi::OpenApi {
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The key's text. `Authorization: Basic <key>` is accepted as well."))
        .build();
    let mut components = document.components.take().unwrap_or_default();
    components.add_security_scheme("key", SecurityScheme::Http(scheme));
    let cookie = ApiKeyValue::with_description(
        super::auth::COOKIE,
        "The cookie that `POST /session` sets; what changes anything needs the header `X-CSRF-Token` besides.",
    );
    components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    flatten(&mut components.schemas);
    refer_to_items(&mut components.schemas);
    answers::add_components(&mut components);
    let examples = Examples::built_in();
    for item in document.paths.paths.values_mut() {
        if let Some(RefOr::T(body)) = item.patch.as_mut().and_then(|operation| operation.request_body.as_mut())
            && let Some(content) = body.content.get("application/json").cloned()
        {
            body.content.insert("application/merge-patch+json".to_owned(), content);
        }
        for (operation, writes) in operations(item) {
            let nature = Nature::of(operation, writes);
            answers::complete(operation, &nature);
            add_errors(operation, &nature, &mut components);
            mend_body(operation);
            examples.add(operation);
            if operation.security.is_none() {
                let by = |scheme: &str| SecurityRequirement::new::<_, [String; 0], String>(scheme, []);
                operation.security = Some(vec![by("key"), by("session")]);
            }
            let parameters = operation.parameters.take().unwrap_or_default();
            let referred: Vec<RefOr<Parameter>> = parameters.into_iter().map(parameters::referred).collect();
            operation.parameters = Some(referred).filter(|parameters| !parameters.is_empty());
        }
    }
    document.components = Some(components);
    // The catch-all segment of the router has no such form in a document.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    document
}

/// The operations of a path, and whether they write.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (&mut Operation, bool)> {
    let methods = [
        (&mut item.get, false),
        (&mut item.post, true),
        (&mut item.put, true),
        (&mut item.patch, true),
        (&mut item.delete, true),
    ];
    methods.into_iter().filter_map(|(operation, writes)| Some((operation.as_mut()?, writes)))
}

/// Adds the errors, each combination of codes being described once.
fn add_errors(operation: &mut Operation, nature: &Nature, components: &mut openapi::Components) {
    let id = operation.operation_id.clone().unwrap_or_default();
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in errors::possible(&id, nature) {
        by_status.entry(code.status()).or_default().push(code);
    }
    for (status, codes) in by_status {
        let name = errors::component(&codes);
        operation
            .responses
            .responses
            .entry(status.to_string())
            .or_insert_with(|| RefOr::Ref(Ref::new(format!("#/components/responses/{name}"))));
        components.responses.entry(name).or_insert_with(|| RefOr::T(errors::answer(&codes)));
    }
}

/// A body that may be left out says so by not being required, rather than by being null.
fn mend_body(operation: &mut Operation) {
    let Some(RefOr::T(body)) = &mut operation.request_body else { return };
    let Some(RefOr::T(content)) = body.content.get_mut("application/json") else { return };
    if let Some(RefOr::T(Schema::OneOf(either))) = &content.schema {
        content.schema = either.items.iter().find(|item| matches!(item, RefOr::Ref(_))).cloned();
        body.required = Some(Required::False);
    }
}

type Schemas = BTreeMap<String, RefOr<Schema>>;

/// Makes one object of each type that has the members of another in it: a part that allows no further members could
/// not stand beside the rest.
fn flatten(schemas: &mut Schemas) {
    let known = schemas.clone();
    for schema in schemas.values_mut() {
        let RefOr::T(Schema::AllOf(all)) = schema else { continue };
        let mut whole = openapi::Object::with_type(Type::Object);
        whole.description = all.description.clone();
        for part in &all.items {
            let part = match part {
                RefOr::Ref(reference) => known.get(reference.ref_location.trim_start_matches(SCHEMAS)),
                whole => Some(whole),
            };
            if let Some(RefOr::T(Schema::Object(part))) = part {
                whole.properties.extend(part.properties.clone());
                whole.required.extend(part.required.clone());
            }
        }
        *schema = RefOr::T(Schema::Object(whole));
    }
}

/// Lets lists refer to the schema of their items instead of repeating it.
fn refer_to_items(schemas: &mut Schemas) {
    let names: Vec<String> = schemas.keys().cloned().collect();
    for (name, schema) in schemas.iter_mut() {
        let Some((_, item)) = name.split_once('_').filter(|(_, item)| names.iter().any(|name| name == item)) else {
            continue;
        };
        let RefOr::T(Schema::Object(list)) = schema else { continue };
        if let Some(RefOr::T(Schema::Array(array))) = list.properties.get_mut("items") {
            array.items = ArrayItems::RefOrSchema(Box::new(Ref::from_schema_name(item).into()));
        }
    }
}

/// The document as text, in an order that does not change: for files that are compared.
pub fn document_text() -> Result<String, serde_json::Error> {
    let (_, document) = super::routes().split_for_parts();
    let mut text = serde_json::to_string_pretty(&serde_json::to_value(finish(document))?)?;
    text.push('\n');
    Ok(text)
}

/// The document and the page that shows it.
pub fn pages(document: &openapi::OpenApi) -> Router<Arc<App>> {
    let json = Bytes::from(serde_json::to_vec(document).expect("a document of names and texts can be written"));
    let headers = [(header::CONTENT_TYPE, "application/json")];
    let config = Config::from(DOCUMENT_PATH)
        .persist_authorization(true)
        .try_it_out_enabled(true)
        .display_request_duration(true)
        .filter(true)
        .default_models_expand_depth(0)
        .validator_url("none");
    Router::new()
        .route(DOCUMENT_PATH, get(move || async move { (headers, json) }))
        .merge(SwaggerUi::new("/docs").config(config))
        .route("/", get(|| async { Redirect::temporary("/docs/") }))
}
