//! The fields of a bearer token, the same in the node file and in the cluster file.

use crate::schema::{KeySpec, Kind, Shape};

static RIGHT: Kind = Kind::Choice(&["read", "write", "admin"]);

static GRANT: &[KeySpec] = &[
    KeySpec::new("namespace", Kind::Text(Shape::Scope), "The namespace that these rights are for, or \"*\" for all of them.")
        .required()
        .example("data"),
    KeySpec::new(
        "allow",
        Kind::List { item: &RIGHT, max: 3 },
        "What is allowed there: \"read\", \"write\", \"admin\". \"admin\" on \"*\" opens the admin listener.",
    )
    .required()
    .example("read, write"),
];

pub(crate) static TOKEN: &[KeySpec] = &[
    KeySpec::new("name", Kind::Text(Shape::Label), "Who holds the token, for the log; once in a file.")
        .required()
        .unique()
        .example("importer"),
    KeySpec::new(
        "sha256",
        Kind::Text(Shape::Sha256),
        "The SHA-256 sum of the token, so that this file gives no token away: printf %s \"$TOKEN\" | sha256sum",
    )
    .required()
    .secret()
    .unique()
    .example("0000000000000000000000000000000000000000000000000000000000000000"),
    KeySpec::new("rights", Kind::Tables(GRANT), "What the holder may do; without any, nothing.").required(),
];
