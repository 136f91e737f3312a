//! A bare HTTP client: keeps its connections, signs nothing, checks nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use terrace::env::{self, Stopwatch};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::Load;
use super::s3::{self, BUCKET};

type Http = legacy::Client<HttpConnector, Full<Bytes>>;

pub struct Client {
    runtime: Runtime,
    http: Http,
    port: u16,
    load: Load,
    at_once: usize,
    frame: Bytes,
}

impl Client {
    /// To the server at this port.
    pub fn new(port: u16, load: Load, at_once: usize) -> Self {
        let runtime = s3::runtime();
        let http = legacy::Client::builder(TokioExecutor::new()).build_http();
        let frame = Bytes::from(vec![7; load.frame_bytes as usize]);
        Self { runtime, http, port, load, at_once, frame }
    }

    fn url(&self, round: usize, object: usize) -> String {
        let name = format!("bare-{}-{}/{round}/{object}", self.load.frame_bytes, self.at_once);
        format!("http://127.0.0.1:{}/{BUCKET}/{name}", self.port)
    }

    pub fn put(&self, round: usize) -> Duration {
        self.all(|object| {
            let request = http::Request::put(self.url(round, object));
            let request = request.body(Full::new(self.frame.clone())).unwrap();
            let answer = self.http.request(request);
            async move {
                let answer = answer.await.unwrap();
                assert!(answer.status().is_success(), "{answer:?}");
                answer.into_body().collect().await.unwrap();
            }
        })
    }

    /// Gets all into memory that is there already.
    pub fn get(&self, round: usize) -> Duration {
        let mut places: Vec<Vec<u8>> =
            (0..self.load.objects).map(|_| vec![1; self.load.frame_bytes as usize]).collect();
        self.all(|object| {
            let request = http::Request::get(self.url(round, object));
            let answer = self.http.request(request.body(Full::default()).unwrap());
            let mut place = std::mem::take(&mut places[object]);
            async move {
                let mut body = answer.await.unwrap().into_body();
                let mut got = 0;
                while let Some(piece) = body.frame().await {
                    let piece = piece.unwrap().into_data().unwrap();
                    place[got..got + piece.len()].copy_from_slice(&piece);
                    got += piece.len();
                }
                assert_eq!(got, place.len());
            }
        })
    }

    fn all<F>(&self, mut request: impl FnMut(usize) -> F) -> Duration
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let turns = Arc::new(Semaphore::new(self.at_once));
        let requests: Vec<F> = (0..self.load.objects).map(&mut request).collect();
        let watch = Stopwatch::start();
        self.runtime.block_on(async {
            let tasks: Vec<_> = requests
                .into_iter()
                .map(|request| {
                    let turns = Arc::clone(&turns);
                    env::spawn_task(async move {
                        let _turn = turns.acquire().await.unwrap();
                        request.await;
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        watch.elapsed()
    }
}
