//! From a listener to the router: connections are accepted, bounded and ended in `duramen_transport::http`.

use super::body::{RequestBody, ResponseBody};
use super::{Api, router};
use duramen_transport::http::{self, Handler};
use hyper::{Request, Response};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Answers requests until the node stops.
pub(crate) async fn run(api: Arc<Api>, listener: TcpListener) {
    let (mut limits, stats, stop) = (api.config.http.clone(), Arc::clone(&api.listener), api.stop.clone());
    limits.budgets = vec![api.answers.clone(), api.feeding.budget().clone()];
    http::serve(listener, ByRouter(api), limits, stats, stop).await;
}

#[derive(Clone)]
struct ByRouter(Arc<Api>);

impl Handler for ByRouter {
    type Body = ResponseBody;

    async fn answer(&self, request: Request<http::RequestBody>) -> Response<ResponseBody> {
        router::answer(&self.0, request.map(RequestBody::Incoming)).await
    }
}
