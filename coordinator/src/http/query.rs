//! Query strings of calls that take none: what is said there would be overlooked, and is refused instead. Calls that take
//! parameters refuse unknown ones as they read them; those from outside, which need no key, are not judged.

use std::{collections::HashSet, sync::Arc};

use axum::{
    extract::MatchedPath,
    http::{Method, request::Parts},
};
use drover_protocol::API_BASE;
use utoipa::openapi::{
    OpenApi, RefOr,
    path::{Operation, ParameterIn},
};

use super::{Fault, extract::url_pairs};
use crate::error::Error;

/// The calls of the API for which the document knows no parameter of the query: method, and path as the router knows it.
#[derive(Clone)]
pub struct WithoutQuery(Arc<HashSet<(Method, String)>>);

impl WithoutQuery {
    /// Those of the document as the routes give it.
    pub fn of(document: &OpenApi) -> Self {
        let mut found = HashSet::new();
        for (path, item) in document.paths.paths.iter().filter(|(path, _)| path.starts_with(API_BASE)) {
            let operations = [
                (Method::GET, &item.get),
                (Method::POST, &item.post),
                (Method::PUT, &item.put),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ];
            let silent = operations
                .into_iter()
                .filter(|(_, operation)| operation.as_ref().is_some_and(|operation| !takes_query(operation)));
            found.extend(silent.map(|(method, _)| (method, path.clone())));
        }
        Self(Arc::new(found))
    }
}

fn takes_query(operation: &Operation) -> bool {
    operation.parameters.iter().flatten().any(|parameter| match parameter {
        RefOr::T(parameter) => parameter.parameter_in == ParameterIn::Query,
        RefOr::Ref(_) => false,
    })
}

/// Refuses a query that the call would not look at.
pub fn require_known(parts: &Parts) -> Result<(), Fault> {
    let text = parts.uri.query().unwrap_or_default();
    let Some((name, _)) = url_pairs(text).next() else { return Ok(()) };
    let (Some(known), Some(path)) = (parts.extensions.get::<WithoutQuery>(), parts.extensions.get::<MatchedPath>())
    else {
        return Ok(());
    };
    let method = if parts.method == Method::HEAD { Method::GET } else { parts.method.clone() };
    match known.0.contains(&(method, path.as_str().to_owned())) {
        true => Err(Error::invalid(name, "this call takes no parameters in its query; leave it out").into()),
        false => Ok(()),
    }
}
