//! A node as five ractor actors around the machines of `cairn-machine`.
//!
//! The actors carry orders out and decide nothing. This crate prints nothing and
//! reads no environment: the `node` crate does.
#![forbid(unsafe_code)]

mod api;
mod logs;
mod models;
mod status;

pub use api::{
    Answer, AnswerError, AnswerEvent, Config, Done, Finish, Message, Node, Prompt, PromptText,
    Role, StartError, TokenEvent,
};
pub use logs::{ClusterLine, LogBook, LogQuery};
pub use models::{FetchError, Located, Models, Wanted};
pub use status::{
    ForecastView, MeasuredView, ModelView, NodeView, PlanView, StageView, State, Status,
};

pub use cairn_wire::control::{LogLevel, LogLine};
