//! A client that gives a request up ends the work for it, on every transport.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use nearfield_gateway::body::{Request, Response};
use nearfield_gateway::error::Error;
use tokio::sync::Semaphore;

use crate::support::{Connection, Edge, READ, TRANSPORTS};

/// Adds a permit when it goes.
struct Dropped(Arc<Semaphore>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_cancels_what_is_pending_inside() {
    let (entered, cancelled) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let inner = {
        let (entered, cancelled) = (entered.clone(), cancelled.clone());
        hyper::service::service_fn(move |_request: Request| {
            let (entered, guard) = (entered.clone(), Dropped(cancelled.clone()));
            async move {
                entered.add_permits(1);
                let _guard = guard;
                std::future::pending::<Result<Response, Error>>().await
            }
        })
    };
    let edge = Edge::start(|_| {}, inner).await;
    let request = || {
        let uri = format!("https://localhost{READ}");
        http::Request::get(uri).header("host", "localhost").header("authorization", edge.authorization.clone())
    };
    for transport in TRANSPORTS {
        // HTTP/2 and HTTP/3 connections stay: only the request is given up.
        let _open: Box<dyn Any> = match edge.connect(transport).await.connection {
            Connection::Http1(mut sender) => {
                let pending = tokio::spawn(sender.send_request(request().body(Full::default()).unwrap()));
                entered.acquire().await.unwrap().forget();
                pending.abort();
                Box::new(())
            }
            Connection::Http2(mut sender) => {
                let pending = tokio::spawn(sender.send_request(request().body(Full::default()).unwrap()));
                entered.acquire().await.unwrap().forget();
                pending.abort();
                Box::new(sender)
            }
            Connection::Http3(mut sender, endpoint) => {
                let mut stream = sender.send_request(request().body(()).unwrap()).await.unwrap();
                // The server may refuse the end of a body that nobody inside reads.
                let _ = stream.finish().await;
                entered.acquire().await.unwrap().forget();
                stream.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
                Box::new((sender, endpoint, stream))
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(20), cancelled.acquire()).await;
        gone.unwrap_or_else(|_| panic!("{transport:?}")).unwrap().forget();
    }
}
