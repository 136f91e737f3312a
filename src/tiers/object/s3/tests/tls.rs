//! The bucket behind TLS: whom it trusts, what it says to servers it doesn't, and buckets that stand
//! in the host name.

use std::path::PathBuf;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use s3s::host::{S3Host, VirtualHost};
use tokio::net::{TcpListener as Listener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::s3::CREDENTIALS;
use super::server::base_of;
use super::*;
use crate::tiers::object::target::Bucket;

/// Whose certificates nobody knows by themselves.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A file that names it.
    fn file(&self, folder: &tempfile::TempDir) -> PathBuf {
        let path = folder.path().join("authority.pem");
        fs::write(&path, self.0.pem()).unwrap();
        path
    }

    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Stands in front of the server as `name`; gives the port.
    fn stands_before(&self, server: &Server, name: &str) -> u16 {
        let (acceptor, plain) = (self.acceptor(name), server.port());
        let listener = server.runtime().block_on(Listener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let handle = server.runtime().handle().clone();
        env::spawn_task_on(server.runtime().handle(), async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                env::spawn_task_on(&handle, async move {
                    let Ok(mut near) = acceptor.accept(socket).await else { return };
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", plain)).await else {
                        return;
                    };
                    // A client that goes away is its own business.
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        port
    }
}

/// What a process says of the store at this endpoint that trusts the authorities in `trusted`.
fn said_of(endpoint: &str, trusted: &std::path::Path) -> String {
    let trusted = trusted.to_str().unwrap();
    let [key, secret] = CREDENTIALS;
    said_with(
        &format!("s3://blocks/p?endpoint={endpoint}"),
        &[key, secret, ("SSL_CERT_FILE", trusted)],
    )
}

#[test]
fn a_server_is_trusted_when_its_authority_is_named_and_else_the_error_says_what_to_do() {
    let (server, folder, other) =
        (Server::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger's"));
    let trusted = authority.file(&folder);
    let port = authority.stands_before(&server, "localhost");
    let said = said_of(&format!("https://localhost:{port}"), &trusted);
    assert!(said.contains("wrote and read"), "{said}");

    let check = |endpoint: String, trusted: &std::path::Path, words: &str| {
        let said = said_of(&endpoint, trusted);
        assert!(
            said.contains("refused: the tier is lost:") && said.contains(words),
            "{endpoint}: {said}"
        );
    };
    let stranger = stranger.file(&other);
    check(format!("https://localhost:{port}"), &stranger, "SSL_CERT_FILE");
    let elsewhere = authority.stands_before(&server, "s3.example");
    check(format!("https://localhost:{elsewhere}"), &trusted, "for another name");
    check(format!("https://localhost:{}", server.port()), &trusted, "write http://");
    check(format!("http://localhost:{port}"), &trusted, "write https://");

    let nothing = folder.path().join("nothing.pem");
    fs::write(&nothing, "").unwrap();
    for empty in [nothing, folder.path().join("not-there.pem")] {
        let said = said_of(&format!("https://localhost:{port}"), &empty);
        assert!(said.contains("refused: no authority's certificate"), "{said}");
    }
}

#[test]
fn an_endpoint_of_the_environment_needs_no_certificates_where_it_speaks_plainly() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    // By a name: an address can't have a bucket before it.
    let plain = server.bucket("p").endpoint.unwrap().replace("127.0.0.1", "localhost");
    let nobody = folder.path().join("not-there.pem");
    let [key, secret] = CREDENTIALS;
    let url = "s3://blocks/p?region=us-east-1";
    let said = |variable, endpoint| {
        let trusted = ("SSL_CERT_FILE", nobody.to_str().unwrap());
        said_with(url, &[key, secret, trusted, (variable, endpoint)])
    };
    for variable in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
        let plainly = said(variable, &plain);
        assert!(plainly.contains("wrote and read"), "{variable}: {plainly}");
        let secretly = said(variable, "https://localhost:9");
        assert!(secretly.contains("refused: no authority's certificate"), "{variable}: {secretly}");
    }
}

/// The host names of buckets, whatever the port; a server of any other name does not answer.
struct Hosts;

const DOMAIN: &str = "kv.example";

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> s3s::S3Result<VirtualHost<'a>> {
        let name = host.split(':').next().unwrap_or_default();
        let bucket = name.strip_suffix(DOMAIN).and_then(|bucket| bucket.strip_suffix('.'));
        let bucket = bucket.ok_or_else(|| s3s::S3Error::new(s3s::S3ErrorCode::InvalidRequest))?;
        Ok(VirtualHost::new(DOMAIN).with_bucket(bucket))
    }
}

/// Every name is this machine.
#[derive(Clone, Debug)]
struct Here;

impl ResolveDns for Here {
    fn resolve_dns<'a>(&'a self, _name: &'a str) -> DnsFuture<'a> {
        DnsFuture::ready(Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()]))
    }
}

fn trusting(authority: &Authority) -> SharedHttpClient {
    let trust = TrustStore::empty().with_pem_certificate(authority.0.pem());
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(TlsContext::builder().with_trust_store(trust).build().unwrap())
        .build_with_resolver(Here)
}

#[test]
fn a_bucket_may_stand_in_the_host_name() {
    let server = Server::start_with(|builder| builder.set_host(Hosts));
    let (authority, arena) = (Authority::new("ours"), sample::arena());
    let port = authority.stands_before(&server, &format!("*.{DOMAIN}"));
    let options = ObjectOptions::default();
    let endpoint = Some(format!("https://{DOMAIN}:{port}"));
    let store = |path_style| {
        let path_style = Some(path_style);
        let bucket = Bucket { endpoint: endpoint.clone(), path_style, ..server.bucket("p") };
        let clients = connect::clients(&base_of("secret"), &bucket, options);
        let trusting = |client: Client| {
            let config = client.config().to_builder().http_client(trusting(&authority));
            Client::from_conf(config.build())
        };
        let (bodies, others) = (trusting(clients.bodies), trusting(clients.others));
        let (clients, runtime) = (Clients { bodies, others }, server.runtime().handle());
        S3Store::with_clients(connect::Source::Given, clients, &bucket, options, &arena, runtime)
    };
    let in_the_name = store(false);
    sample::write(&in_the_name, &arena, BLOCK, ANYWHERE).unwrap();
    sample::read(&in_the_name, &arena, BLOCK, ANYWHERE).unwrap();
    sample::restamp(&in_the_name, BLOCK, ANYWHERE, 80).unwrap();
    assert_eq!(sample::peek(&in_the_name, BLOCK).unwrap(), 80);
    assert!(server.file("p", BLOCK.key()).is_file());
    // The certificate and the server both know it by that name only.
    assert!(sample::peek(&store(true), BLOCK).is_err());
}
