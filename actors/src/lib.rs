//! A node as five ractor actors around the machines of `cairn-machine`.
//!
//! The actors carry orders out and decide nothing. This crate prints nothing and
//! reads no environment: the `node` crate does.
#![forbid(unsafe_code)]

mod api;
mod capability;
mod discovery;
mod gauges;
mod library;
mod logs;
mod models;
mod node;
mod pace;
mod pings;
mod pipeline;
mod planner;
mod prompt;
mod root;
mod route;
mod shard;
mod shell;
mod stages;
mod standby;
mod status;
mod stop;
mod wiring;

pub use api::{
    Answer, AnswerError, AnswerEvent, Config, Done, Finish, Message, Prompt, PromptText, Role,
    StartError, TokenEvent,
};
pub use capability::limits::{Limits, MemoryLimit};
pub use capability::measure::workload as probe_workload;
pub use library::{check_model, model_costs};
pub use logs::{ClusterLine, LogBook, LogQuery};
pub use models::{FetchError, Located, Models, Wanted};
pub use node::Node;
pub use status::{
    ForecastView, LinkView, ManyView, MeasuredView, ModelView, NodeView, PlanView, ProofView,
    StageView, State, Status, SurvivalView,
};

pub use cairn_engine::SamplerParams;
pub use cairn_planner::Strategy;
pub use cairn_wire::control::{LogLevel, LogLine};
