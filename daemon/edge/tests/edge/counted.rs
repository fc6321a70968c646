//! What is refused is counted, under stable names.

use isochrone_edge::{Auth, EdgeLimits, describe};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::model::{Client, Model, api};
use crate::rights::token;

#[test]
fn requests_and_refusals_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        describe();
        let model = Model::new();
        let client = Client { api: api(&model, Auth::none(), EdgeLimits::default()), model };
        let guarded = api(&client.model, Auth::tokens(vec![token("t", None, &[])]), EdgeLimits::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            client.put("/v1/kv/data/a", "1").await;
            client.get("/v1/kv/data/a").await;
            client.get("/v1/kv/data/a").await;
            client.get("/nothing").await;
            client.ask("POST", "/v1/counters/data/c", &[], "{\"add\": 1}").await;
            client.ask("POST", "/v1/counters/data/c", &[], "{\"add\": \"1\"}").await;
            client.get("/v1/counters/data").await;
            client.ask("PUT", "/v1/kv/data/a", &[], vec![0; 1001]).await;
            client.ask("POST", "/v1/batch", &[], "{\"op\":\"get\",\"ns\":\"data\",\"key\":\"a\"}\n{}\n").await;
            Client { api: guarded, model: Model::new() }.get("/v1/kv/data/a").await;
        });
    });
    let text = handle.render();
    for line in [
        r#"isochrone_http_requests_total{route="kv",method="GET",status="200"} 2"#,
        r#"isochrone_http_requests_total{route="kv",method="PUT",status="204"} 1"#,
        r#"isochrone_http_requests_total{route="counters",method="POST",status="200"} 1"#,
        r#"isochrone_http_requests_total{route="counters",method="POST",status="400"} 1"#,
        r#"isochrone_http_requests_total{route="counters_list",method="GET",status="200"} 1"#,
        r#"isochrone_http_requests_total{route="none",method="GET",status="404"} 1"#,
        r#"isochrone_http_batch_lines_total{op="get",outcome="ok"} 1"#,
        r#"isochrone_http_batch_lines_total{op="unknown",outcome="refused"} 1"#,
        r#"isochrone_http_refused_total{reason="body_bytes"} 1"#,
        r#"isochrone_http_refused_total{reason="unauthenticated"} 1"#,
        "isochrone_http_requests_in_flight 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
