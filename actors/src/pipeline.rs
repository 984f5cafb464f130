//! The `pipeline` actor: the answers that this node drives. Turns tokens into text for its clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use cairn_engine::DecodeStream;
use cairn_machine::pipeline::{Abort, Finish, Input, Output, PipelineMachine, Request, RequestId};
use cairn_machine::placement;
use cairn_wire::id::NodeId;
use ractor::RpcReplyPort;
use tokio::sync::mpsc;

use crate::api::{self, AnswerError, AnswerEvent, Done, TokenEvent};
use crate::shell::Role;
use crate::stop::StopTexts;
use crate::wiring::Wiring;

/// Effects of the pipeline.
pub(crate) struct PipelineRole {
    wiring: Arc<Wiring>,
    clients: BTreeMap<RequestId, Client>,
    last_id: u64,
    measured: Option<Speed>,
}

/// How fast the last answer was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    pub(crate) ttft_ms: f64,
    pub(crate) tokens_per_second: f64,
}

/// A prompt ready for the machine, and who waits for its answer.
pub(crate) struct Submission {
    pub(crate) request: Request,
    pub(crate) decode: DecodeStream,
    pub(crate) stop: StopTexts,
    pub(crate) events: mpsc::Sender<AnswerEvent>,
}

/// Questions and news for the pipeline.
pub(crate) enum Other {
    /// A prompt arrived; the reply is its name.
    Submit(Box<Submission>, RpcReplyPort<RequestId>),
    /// How much is going on.
    AskLoad(RpcReplyPort<Load>),
}

/// How much is going on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) running: usize,
    pub(crate) waiting: usize,
    pub(crate) measured: Option<Speed>,
}

/// Who waits for an answer.
struct Client {
    events: mpsc::Sender<AnswerEvent>,
    decode: DecodeStream,
    stop: StopTexts,
    prompt_tokens: u32,
    tokens: u32,
    submitted: Instant,
    first: Option<Instant>,
}

impl PipelineRole {
    pub(crate) fn new(wiring: Arc<Wiring>) -> Self {
        Self {
            wiring,
            clients: BTreeMap::new(),
            last_id: 0,
            measured: None,
        }
    }

    fn submit(&mut self, submission: Submission, reply: RpcReplyPort<RequestId>) -> Option<Input> {
        self.last_id += 1;
        let id = RequestId(self.last_id);
        let prompt_tokens = u32::try_from(submission.request.tokens.len()).unwrap_or(u32::MAX);
        let client = Client {
            events: submission.events,
            decode: submission.decode,
            stop: submission.stop,
            prompt_tokens,
            tokens: 0,
            submitted: Instant::now(),
            first: None,
        };
        self.clients.insert(id, client);
        tracing::debug!(request = id.0, prompt_tokens, "prompt");
        if reply.send(id).is_err() {
            self.clients.remove(&id);
            return None;
        }
        let request = submission.request;
        Some(Input::Submit { id, request })
    }

    fn token(&mut self, id: RequestId, token: u32, logprob: f32) -> Option<Input> {
        let client = self.clients.get_mut(&id)?;
        client.first.get_or_insert_with(Instant::now);
        client.tokens += 1;
        let text = client.decode.push(token);
        let (text, stopped) = client.stop.push(&text);
        let event = AnswerEvent::Token(TokenEvent {
            token,
            text,
            logprob,
        });
        if client.events.try_send(event).is_err() {
            self.clients.remove(&id);
            return Some(Input::Cancel(id));
        }
        if stopped {
            self.done(id, api::Finish::Stop);
            return Some(Input::Cancel(id));
        }
        None
    }

    fn done(&mut self, id: RequestId, finish: api::Finish) {
        let Some(mut client) = self.clients.remove(&id) else {
            return;
        };
        let speed = client.speed();
        let mut text = client.stop.push(&client.decode.finish()).0;
        text.push_str(&client.stop.finish());
        let done = Done {
            finish,
            text,
            prompt_tokens: client.prompt_tokens,
            completion_tokens: client.tokens,
            ttft_ms: speed.ttft_ms,
            tokens_per_second: speed.tokens_per_second,
        };
        tracing::info!(
            request = id.0,
            prompt_tokens = done.prompt_tokens,
            tokens = done.completion_tokens,
            ttft_ms = format!("{:.0}", done.ttft_ms),
            tokens_per_second = format!("{:.1}", done.tokens_per_second),
            "answered"
        );
        if client.tokens > 1 {
            self.measured = Some(speed);
        }
        // Whoever asked may have gone.
        drop(client.events.try_send(AnswerEvent::Done(done)));
    }

    fn aborted(&mut self, id: RequestId, cause: Abort) {
        let Some(client) = self.clients.remove(&id) else {
            return;
        };
        let error = match cause {
            Abort::NoPlan => AnswerError::NotReady("no plan came into force in time".to_owned()),
            Abort::Busy => AnswerError::Busy {
                retry_after_seconds: 5,
            },
            Abort::ContextOverflow { context } => AnswerError::ContextOverflow {
                prompt_tokens: client.prompt_tokens,
                context,
            },
            Abort::NodeLost(node) => AnswerError::NodeLost {
                node: self.wiring.name(node),
                detail: format!("{} tokens were answered", client.tokens),
            },
            Abort::Stage { stage, detail } => AnswerError::StageFailed { stage, detail },
            Abort::Stalled => AnswerError::Stalled {
                tokens: client.tokens,
            },
        };
        tracing::warn!(request = id.0, %error, "an answer ended early");
        drop(client.events.try_send(AnswerEvent::Failed(error)));
    }
}

impl Role for PipelineRole {
    type Machine = PipelineMachine;
    type Other = Other;

    fn perform(&mut self, order: Output) -> Option<Input> {
        match order {
            Output::Send { to, frame } => {
                let frame = self.wiring.send(to, frame)?;
                return Some(Input::Unsent { to, frame });
            }
            Output::Token { id, token, logprob } => return self.token(id, token, logprob),
            Output::Finished { id, finish } => self.done(
                id,
                match finish {
                    Finish::EndToken => api::Finish::Stop,
                    Finish::Length => api::Finish::Length,
                },
            ),
            Output::Aborted { id, cause } => self.aborted(id, cause),
            Output::Probed { plan, result } => {
                self.wiring
                    .to_planner(placement::Input::Probed { plan, result });
            }
        }
        None
    }

    fn other(&mut self, machine: &PipelineMachine, other: Other) -> Option<Input> {
        match other {
            Other::Submit(submission, reply) => self.submit(*submission, reply),
            Other::AskLoad(reply) => {
                // Whoever asked may have gone.
                drop(reply.send(Load {
                    running: machine.running(),
                    waiting: machine.waiting(),
                    measured: self.measured,
                }));
                None
            }
        }
    }
}

impl Client {
    fn speed(&self) -> Speed {
        let first = self.first.unwrap_or_else(Instant::now);
        let decode = first.elapsed().as_secs_f64();
        let after_first = f64::from(self.tokens.saturating_sub(1));
        Speed {
            ttft_ms: (first - self.submitted).as_secs_f64() * 1000.0,
            tokens_per_second: if decode > 0.0 {
                after_first / decode
            } else {
                0.0
            },
        }
    }
}

/// A link has room again: both senders of data may go on.
pub(crate) fn link_ready(wiring: &Wiring, peer: NodeId) {
    wiring.to_shard(cairn_machine::shard::Input::LinkReady { peer });
    wiring.to_pipeline(Input::LinkReady { peer });
}
