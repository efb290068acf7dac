//! What the row of a route says for the API's document.

/// What the document says of a route, besides what follows from its row.
pub struct Doc {
    /// `operationId`
    pub id: &'static str,
    /// The group that it stands in.
    pub tag: &'static str,
    /// One line.
    pub summary: &'static str,
    /// More, where one line is not enough.
    pub description: &'static str,
    /// Parameters of the query, by their names in `components`.
    pub query: &'static [&'static str],
    /// What the request's body is.
    pub body: Body,
    /// The status and the description of the good answer.
    pub answer: (u16, &'static str),
    /// What the good answer's body is.
    pub content: Option<Content>,
    /// Other answers, most of them bad, that not every route has: by their names in `components`.
    pub problems: &'static [(u16, &'static str)],
}

impl Doc {
    /// What most routes leave out.
    pub const PLAIN: Doc = Doc {
        id: "",
        tag: "",
        summary: "",
        description: "",
        query: &[],
        body: Body::None,
        answer: (200, ""),
        content: None,
        problems: &[],
    };
}

const JSON: &str = "application/json";
/// The type of what may be anything.
const BYTES: &str = "application/octet-stream";

/// A request's body.
pub enum Body {
    /// The route reads none.
    None,
    /// It may be left out.
    Optional(Content),
    /// It must be there.
    Required(Content),
}

/// A body.
pub struct Content {
    /// Its media type.
    pub media_type: &'static str,
    /// Its name in `components`; empty for any object.
    pub schema: &'static str,
    /// Its examples, in JSON.
    pub examples: Examples,
}

/// The examples of a body.
pub enum Examples {
    /// None.
    None,
    /// One, without a name.
    One(&'static str),
    /// Several, with names.
    Several(&'static [Example]),
}

/// An example: name, summary (or empty), JSON.
pub type Example = (&'static str, &'static str, &'static str);

impl Content {
    /// Any object.
    pub const ANY: Content = Content { media_type: JSON, schema: "", examples: Examples::None };

    /// Whatever it is: bytes. (Generators of clients know no `*/*`.)
    pub const WHATEVER: Content = Content { media_type: BYTES, schema: "", examples: Examples::None };

    /// Server-sent events with tokens.
    pub const EVENTS: Content =
        Content { media_type: "text/event-stream", schema: "TokenEvents", examples: Examples::None };

    /// Server-sent events about changes.
    pub const NOTICES: Content =
        Content { media_type: "text/event-stream", schema: "Events", examples: Examples::None };

    /// A schema with one example, in JSON.
    pub const fn one(schema: &'static str, example: &'static str) -> Self {
        Content { media_type: JSON, schema, examples: Examples::One(example) }
    }

    /// A form, with one example in JSON.
    pub const fn form(schema: &'static str, example: &'static str) -> Self {
        Content { media_type: "application/x-www-form-urlencoded", ..Content::one(schema, example) }
    }

    /// A schema with several examples.
    pub const fn several(schema: &'static str, examples: &'static [Example]) -> Self {
        Content { media_type: JSON, schema, examples: Examples::Several(examples) }
    }
}
