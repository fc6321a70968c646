//! The QUIC endpoint: transport settings and seeded connection ids.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, NoneTokenStore,
    ServerConfig, TransportConfig, ValidationTokenConfig, VarInt,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::shared::lock;
use crate::tls::Material;
use crate::{Bounds, Sockets};

/// Bytes of a connection id.
const CONNECTION_ID_BYTES: usize = 8;

/// Packets that may overtake one before it is taken for lost. RFC 9002 (section 6.1.1) asks for at least 3; on paths that are long
/// and jitter, so few would take reordering for loss, so the time threshold (9/8 of a round trip) decides.
const PACKET_THRESHOLD: u32 = 128;

/// Bytes that a new connection may have under way before it has learned anything. Larger than RFC 9002 section 7.2 suggests for strangers: both ends are
/// daemons of one cluster, quinn paces the first flight, and from ten packets on, CUBIC takes many seconds to fill a link of 232 ms, which
/// is how long a daemon that came back would lack what it missed.
const INITIAL_WINDOW_BYTES: u64 = 256 << 10;

/// Draws connection ids from a seed. Cloning shares the sequence.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionIds(Arc<Mutex<StdRng>>);

impl ConnectionIds {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn draw(&self) -> ConnectionId {
        ConnectionId::new(&lock(&self.0).random::<[u8; CONNECTION_ID_BYTES]>())
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.draw()
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Transport settings for both sides of every connection.
pub(crate) fn transport_of(bounds: &Bounds) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let idle = VarInt::from_u32(u32::try_from(bounds.idle_timeout.as_millis()).unwrap_or(u32::MAX));
    let mut cubic = CubicConfig::default();
    cubic.initial_window(INITIAL_WINDOW_BYTES);
    transport
        .max_idle_timeout(Some(IdleTimeout::from(idle)))
        .keep_alive_interval(Some(bounds.keep_alive))
        .max_concurrent_bidi_streams(bounds.streams_max.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(bounds.stream_window_bytes.into())
        .receive_window(bounds.connection_window_bytes.into())
        .send_window(bounds.connection_window_bytes.into())
        .datagram_send_buffer_size(bounds.datagram_bytes_max)
        .datagram_receive_buffer_size(Some(bounds.datagram_bytes_max))
        .packet_threshold(PACKET_THRESHOLD)
        .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
        // CUBIC: quinn's BBR is not maintained (M7).
        .congestion_controller_factory(Arc::new(cubic));
    Arc::new(transport)
}

/// Settings for connections that we take.
pub(crate) fn server_config_of(material: &Material, transport: &Arc<TransportConfig>, handshakes_max: usize) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(material.server.clone());
    // No address validation tokens: every connection proves itself anew.
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    config.transport_config(transport.clone()).migration(false).max_incoming(handshakes_max).validation_token_config(tokens);
    config
}

/// Settings for connections that we make.
pub(crate) fn client_config_of(material: &Material, transport: &Arc<TransportConfig>, ids: &ConnectionIds) -> ClientConfig {
    let mut config = ClientConfig::new(material.client.clone());
    let ids = ids.clone();
    config.transport_config(transport.clone()).token_store(Arc::new(NoneTokenStore)).initial_dst_cid_provider(Arc::new(move || ids.draw()));
    config
}

/// A listening endpoint, all of whose randomness that can be seen comes from the seed.
pub(crate) fn listen(
    sockets: &dyn Sockets,
    listen: std::net::SocketAddr,
    server: ServerConfig,
    ids: &ConnectionIds,
    seed: u64,
) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    let ids = ids.clone();
    let mut rng = StdRng::seed_from_u64(seed);
    config.rng_seed(Some(rng.random())).cid_generator(move || Box::new(ids.clone()));
    Endpoint::new_with_abstract_socket(config, Some(server), sockets.bind(listen)?, sockets.runtime())
}
