//! Calls, channels and their bounds, on real loopback sockets.

mod support;

use std::time::Duration;

use bytes::Bytes;
use isochrone_gossip::{Call, CallError, ChannelError, FrameError, RealSockets, Traffic};
use isochrone_ident::NodeId;
use support::*;

async fn pair() -> (Node, Node) {
    let ca = authority();
    let a = real(&ca, 1, &[]).await;
    let b = real(&ca, 2, &[a.address()]).await;
    until_meshed(&[&a, &b]).await;
    (a, b)
}

#[tokio::test]
async fn two_daemons_answer_each_other() {
    let (a, b) = pair().await;
    assert_eq!(a.echo(b.id(), b"over").await, Ok(Bytes::from_static(b"over")));
    assert_eq!(b.echo(a.id(), b"back").await, Ok(Bytes::from_static(b"back")));
    assert_eq!(a.echo(b.id(), b"").await, Ok(Bytes::new()));
    assert_eq!(a.echo(a.id(), b"myself").await, Ok(Bytes::from_static(b"myself")));
}

#[tokio::test]
async fn three_daemons_find_each_other_through_one_seed() {
    let ca = authority();
    let a = real(&ca, 1, &[]).await;
    let seeds = [a.address()];
    let (b, c) = (real(&ca, 2, &seeds).await, real(&ca, 3, &seeds).await);
    until_meshed(&[&a, &b, &c]).await;
    assert!(b.echo(c.id(), b"x").await.is_ok());
    assert_eq!(b.mesh.rank(&[NodeId(3), NodeId(2), NodeId(1)])[0], b.id());
}

#[tokio::test]
async fn a_seed_that_starts_later_is_found() {
    let ca = authority();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port();
    let b = real(&ca, 2, &[format!("localhost:{port}")]).await;
    tokio::time::sleep(SECOND / 2).await;
    let mut options = options(&ca, 1, &[]);
    options.listen.set_port(port);
    let a = start(options, std::sync::Arc::new(RealSockets::default())).await;
    until_meshed(&[&a, &b]).await;
}

#[tokio::test]
async fn m7_bulk_calls_use_a_connection_of_their_own() {
    let (a, b) = pair().await;
    let body = Bytes::from(vec![5; 3 << 20]);
    let answer = a.mesh.call(b.id(), Call::new(ECHO, body.clone(), SECOND * 10).bulk()).await;
    assert_eq!(answer.map(|bytes| bytes == body), Ok(true));
    assert!(a.echo(b.id(), b"meanwhile").await.is_ok());
}

#[tokio::test]
async fn a_refusal_is_told_in_the_services_words() {
    let (a, b) = pair().await;
    let outcome = a.mesh.call(b.id(), Call::new(REFUSE, Bytes::new(), SECOND)).await;
    assert_eq!(outcome, Err(CallError::Refused("not this one".to_owned())));
}

#[tokio::test]
async fn m8_a_call_ends_at_its_deadline_with_an_unknown_outcome() {
    let (a, b) = pair().await;
    let outcome = a.mesh.call(b.id(), Call::new(HANG, Bytes::new(), Duration::from_millis(200))).await;
    assert_eq!(outcome, Err(CallError::Deadline { sent: true }));
}

#[tokio::test]
async fn m8_what_is_already_late_is_dropped_by_the_receiver() {
    let (a, b) = pair().await;
    let outcome = a.mesh.call(b.id(), Call::new(ECHO, Bytes::new(), Duration::ZERO)).await;
    assert!(matches!(outcome, Err(CallError::Deadline { .. } | CallError::Late(_))), "{outcome:?}");
    assert_eq!(b.service.count(ECHO), 0);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_before_anything_is_sent() {
    let (a, b) = pair().await;
    let body = Bytes::from(vec![0; (17 << 20) + 1]);
    let outcome = a.mesh.call(b.id(), Call::new(ECHO, body, SECOND)).await;
    assert!(matches!(&outcome, Err(error @ CallError::TooLarge { .. }) if error.is_unsent()), "{outcome:?}");
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_a_refusal() {
    let (a, b) = pair().await;
    let outcome = a.mesh.call(b.id(), Call::new(FILL, Bytes::from_static(&[2, 0, 0, 0]), SECOND * 5)).await;
    assert!(matches!(outcome, Err(CallError::Refused(_))), "{outcome:?}");
}

#[tokio::test]
async fn nobody_is_called_under_an_unknown_id() {
    let (a, _b) = pair().await;
    assert_eq!(a.echo(NodeId(99), b"x").await, Err(CallError::NoSuchPeer(NodeId(99))));
}

#[tokio::test]
async fn a_busy_peer_says_so_and_its_service_sees_nothing() {
    let ca = authority();
    let mut few = options(&ca, 1, &[]);
    few.bounds.inbound_calls_max = 2;
    let a = start(few, std::sync::Arc::new(RealSockets::default())).await;
    let b = real(&ca, 2, &[a.address()]).await;
    until_meshed(&[&a, &b]).await;
    let hang = || b.mesh.call(a.id(), Call::new(HANG, Bytes::new(), SECOND * 2));
    let full = async {
        until("two calls hang", SECOND, || a.service.count(HANG) == 2).await;
        b.echo(a.id(), b"x").await
    };
    let (_, _, third) = tokio::join!(hang(), hang(), full);
    assert_eq!(third, Err(CallError::Busy(a.id())));
    assert_eq!(a.service.count(ECHO), 0);
    assert!(b.echo(a.id(), b"x").await.is_ok());
}

#[tokio::test]
async fn a_dead_peer_is_noticed_within_three_seconds() {
    let ca = authority();
    let a = real(&ca, 1, &[]).await;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (ca_there, seeds) = (ca.clone(), [a.address()]);
    let b = runtime.spawn(async move { real(&ca_there, 2, &seeds).await }).await.expect("starts");
    until("connected", SECOND * 5, || a.mesh.is_connected(b.id())).await;
    runtime.shutdown_background();
    until("the dead peer is noticed", SECOND * 3, || !a.mesh.is_connected(b.id())).await;
    let outcome = a.echo(b.id(), b"x").await;
    assert!(matches!(&outcome, Err(error) if error.is_unsent()), "{outcome:?}");
}

#[tokio::test]
async fn a_peer_that_leaves_is_gone_at_once() {
    let (a, b) = pair().await;
    b.mesh.leave().await;
    until("it is gone", SECOND, || !a.mesh.is_connected(b.id())).await;
    assert_eq!(b.echo(a.id(), b"x").await, Err(CallError::Left));
    assert!(matches!(a.echo(b.id(), b"x").await, Err(CallError::NoSuchPeer(_))));
}

#[tokio::test]
async fn an_address_can_be_called_before_membership_knows_it() {
    let ca = authority();
    let (a, b) = (real(&ca, 1, &[]).await, real(&ca, 2, &[]).await);
    let call = || Call::new(ECHO, Bytes::from_static(b"hi"), SECOND * 2);
    let (who, answer) = b.mesh.call_addr(&a.address(), call()).await.expect("answers");
    assert_eq!((who, answer), (a.mesh.me().identity.clone(), Bytes::from_static(b"hi")));
    let nobody = b.mesh.call_addr("127.0.0.1:9", call()).await;
    assert!(matches!(&nobody, Err(error) if error.is_unsent()), "{nobody:?}");
    assert!(b.mesh.call_addr("no.such.host.invalid:1", call()).await.is_err());
}

#[tokio::test]
async fn a_channel_carries_frames_both_ways_in_order() {
    let (a, b) = pair().await;
    for class in [Traffic::Foreground, Traffic::Bulk] {
        let channel = a.mesh.open(b.id(), ECHO, class).await.expect("opens");
        let (mut sender, mut receiver) = channel.split();
        let sending = tokio::spawn(async move {
            for number in 0..200_u32 {
                sender.send(Bytes::from(vec![number as u8; number as usize * 500])).await.expect("sent");
            }
            sender.finish();
            sender
        });
        for number in 0..200_u32 {
            let frame = receiver.recv().await.expect("whole").expect("more");
            assert_eq!(frame, vec![number as u8; number as usize * 500]);
        }
        assert_eq!(receiver.recv().await, Ok(None));
        drop(sending.await.expect("ends"));
    }
}

#[tokio::test]
async fn a_channel_frame_that_is_too_long_is_not_sent() {
    let (a, b) = pair().await;
    let mut channel = a.mesh.open(b.id(), ECHO, Traffic::Foreground).await.expect("opens");
    let outcome = channel.send(Bytes::from(vec![0; 18 << 20])).await;
    assert!(matches!(outcome, Err(ChannelError::Frame(FrameError::TooLong { .. }))));
    channel.send(Bytes::from_static(b"still good")).await.expect("sent");
    assert_eq!(channel.recv().await, Ok(Some(Bytes::from_static(b"still good"))));
}

#[tokio::test]
async fn a_channel_dropped_half_way_is_broken_and_not_ended() {
    let (a, b) = pair().await;
    let mut channel = a.mesh.open(b.id(), ECHO, Traffic::Foreground).await.expect("opens");
    channel.send(Bytes::from_static(b"one")).await.expect("sent");
    assert_eq!(channel.recv().await, Ok(Some(Bytes::from_static(b"one"))));
    let (sender, mut receiver) = channel.split();
    drop(sender);
    assert!(receiver.recv().await.is_err());
}

#[tokio::test]
async fn channels_beyond_the_bound_are_refused_as_busy() {
    let ca = authority();
    let mut few = options(&ca, 1, &[]);
    few.bounds.inbound_channels_max = 1;
    let a = start(few, std::sync::Arc::new(RealSockets::default())).await;
    let b = real(&ca, 2, &[a.address()]).await;
    until_meshed(&[&a, &b]).await;
    let mut first = b.mesh.open(a.id(), ECHO, Traffic::Foreground).await.expect("opens");
    first.send(Bytes::from_static(b"x")).await.expect("sent");
    first.recv().await.expect("taken");
    let mut second = b.mesh.open(a.id(), ECHO, Traffic::Foreground).await.expect("opens");
    assert_eq!(second.recv().await, Err(ChannelError::Busy));
}
