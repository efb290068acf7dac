//! Tests of promises from outside: the real binary, real sockets, a real Redis, an emulator of Entra. All are
//! one binary with a file for each promise, so that it links once.

#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the daemon from outside, with the real clock and tasks"
)]
#![allow(clippy::print_stderr, reason = "a failing test shows the daemon's log")]

#[path = "../support/counted.rs"]
mod counted;
#[path = "../support/hostile.rs"]
mod hostile;
#[path = "../support/http.rs"]
mod http_client;
#[path = "../support/mistakes.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with the configuration's own tests")]
mod mistakes;
#[path = "../../src/store/testing.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with the store's own tests")]
mod redis_server;
#[path = "../../src/policy/reference.rs"]
mod reference;
#[path = "../support/resource.rs"]
mod resource;
#[path = "../support/setup.rs"]
mod setup;
#[path = "../../src/jwt/testing.rs"]
mod tokens;
mod world;

mod admin_routes;
mod app_tokens;
mod asvs;
mod at_once;
mod attacks_api;
mod attacks_authority;
mod attacks_connect;
mod attacks_identity;
mod attacks_rights;
mod audit;
mod bearers;
mod blast_radius;
mod bounded;
mod callback_repeats;
mod canaries;
mod check;
mod chromium;
mod client_assertions;
mod client_credentials;
mod commands;
mod console;
mod console_browser;
mod dead_grants;
mod dialects;
mod docs;
mod doctor;
mod doors;
mod evidence;
mod evidence_acts;
mod exports;
mod filling;
mod first_service;
mod floods;
mod forecast;
mod foresight;
mod generated;
mod guarded;
mod guides;
mod handles;
mod http2;
mod imports;
mod imports_cut_short;
mod interop;
mod jwt_callers;
mod keyring;
mod launcher;
mod linear_work;
mod lists;
mod mail;
mod mailboxes;
mod main_job;
mod managed_identity;
mod manners;
mod metrics;
mod msi;
mod mtls;
mod names;
mod notices;
mod notices_of_apps;
mod odd_answers;
mod operations;
mod operator_commands;
mod outbound;
mod pages;
mod passed_sockets;
mod pki;
mod policy_doors;
mod prompts;
mod providers;
mod quotas;
mod records;
mod relay;
mod relay_attacks;
mod relay_clients;
mod relay_streams;
mod replicas;
mod revocations;
mod rotate;
mod rotation;
mod schemas;
mod sign_in_refusals;
mod status;
mod store_needs;
mod store_trips;
mod sweep;
mod timing;
mod token_exchange;
mod token_hosts;
mod traces;
mod trouble;
mod upstream_load;
mod watch;
mod watch_clients;
mod webhook_clients;
mod webhook_reloads;
mod work;
