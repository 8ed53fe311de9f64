//! Keys and values of every shape; scans in order over partitions.

use crate::e2e;
use duramen_tests::harness::Cluster;
use duramen_tests::harness::feed::blob;
use duramen_tests::harness::http::{Http, kv, path_of};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Keys that break naive servers.
fn odd_keys() -> Vec<Vec<u8>> {
    let texts = [
        "/",
        "//",
        "a/b",
        "a%2Fb",
        "%",
        "%2F",
        "%00",
        ".",
        "..",
        "../..",
        "a/../b",
        " ",
        "two words",
        "+",
        "a+b",
        "?",
        "?x=1",
        "#",
        "&",
        "=",
        ";",
        "\\",
        "\"",
        "'",
        "<",
        "é",
        "日本語",
        "🦀",
        "\n",
        "\r\n",
        "\t",
        "{tag}x",
        "{}",
        "{",
        "*",
        "kv",
        "v1/kv",
    ];
    let mut keys: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    keys.push(vec![0]);
    keys.push(b"a\0b".to_vec());
    keys.push(vec![0xff, 0xfe, 0x00, 0x80]);
    keys.push(vec![0xff; 1024]);
    keys.push(vec![b'k'; 1024]);
    keys.push(vec![0; 1024]);
    keys
}

async fn scan_all(http: &Http, query: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = http.get(format!("/v1/kv?{query}{cursor}")).expect(200).await.json();
        let items = page["items"].as_array().expect("items");
        found.extend(items.iter().map(|item| (blob(&item["key"]), blob(&item["value"]))));
        match &page["cursor"] {
            Value::String(next) => cursor = format!("&cursor={}", path_of(next.as_bytes())),
            other => {
                assert!(other.is_null(), "{page}");
                return found;
            }
        }
    }
}

e2e! {
    /// Goal: any bytes from 1 to 1024 are a key, any from 0 to 1 MiB a value. Method: put at one node; get, head, scan,
    /// batch and delete at the other.
    async fn odd_keys_and_values_come_back_as_they_were(places: 1, seconds: 90) {
        let cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        let keys = odd_keys();
        for (number, key) in keys.iter().enumerate() {
            let value = [key.as_slice(), &[0, 255, number as u8]].concat();
            nodes[0].put(kv(key), value.clone()).expect(204).await;
            let read = nodes[1].get(kv(key)).expect(200).await;
            assert_eq!(read.body, value, "{read}");
            let head = nodes[1].call("HEAD", kv(key)).expect(200).await;
            assert_eq!(head.header("etag"), read.header("etag"));
            assert_eq!(head.header("content-length"), Some(value.len().to_string().as_str()), "{head}");
        }
        let found = scan_all(&nodes[1], "limit=7").await;
        let wanted: BTreeMap<Vec<u8>, usize> = keys.iter().cloned().zip(0..).collect();
        assert_eq!(found.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), wanted.keys().cloned().collect::<Vec<_>>());
        for (key, value) in &found {
            assert_eq!(value, &[key.as_slice(), &[0, 255, wanted[key] as u8]].concat());
        }
        for key in &keys {
            nodes[1].delete(kv(key)).expect(204).await;
            let _ = nodes[0].get(kv(key)).ok().await.expect_problem(404, "not-found");
        }
        assert!(scan_all(&nodes[0], "limit=1000").await.is_empty());
        sizes(&nodes).await;
        binary_json(&nodes).await;
    }
}

async fn sizes(nodes: &[Http]) {
    for size in [0usize, 1, 255, 4096, 65_535, 65_536, 200_000, 1 << 20] {
        let value: Vec<u8> = (0..size).map(|number| (number * 31 % 251) as u8).collect();
        nodes[0].put(kv(format!("size/{size}")), value.clone()).expect(204).await;
        let read = nodes[1].get(kv(format!("size/{size}"))).expect(200).await;
        assert!(read.body == value, "a value of {size} bytes came back with {}", read.body.len());
    }
    let sizes: Vec<usize> = scan_all(&nodes[1], "prefix=size/&limit=1").await.iter().map(|(_, v)| v.len()).collect();
    assert_eq!(sizes.len(), 8, "{sizes:?}");
    assert!(sizes.contains(&(1 << 20)) && sizes.contains(&0));
}

/// Keys and values that are no UTF-8 go through JSON as base64, in both directions.
async fn binary_json(nodes: &[Http]) {
    let key = json!({"base64": "/wA="});
    let ops = json!([{"put": {"key": key, "value": {"base64": "gIE="}}}, {"put": {"key": "text", "value": ""}}]);
    nodes[0].post("/v1/batch", &json!({"ops": ops})).expect(200).await;
    assert_eq!(nodes[1].get("/v1/kv/%FF%00").expect(200).await.body.as_ref(), &[0x80, 0x81]);
    let page = nodes[1].get("/v1/kv?start=%FF").expect(200).await.json();
    assert_eq!(page["items"][0]["key"], key);
    assert_eq!(page["items"][0]["value"], json!({"base64": "gIE="}));
}

e2e! {
    /// Goal: a scan is ordered by key bytes over all partitions, whatever its bounds and page size. Method: 500 keys over
    /// four partitions, compared with a sorted map for many prefixes, ranges and limits; deletes in between.
    async fn scans_are_ordered_over_partitions_for_all_bounds(places: 1, seconds: 90) {
        let cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let ops: Vec<Value> = (0..500u32)
            .map(|number| {
                let key = format!("{:03}/{}", number * 7 % 500, number % 3);
                model.insert(key.clone().into_bytes(), number.to_string().into_bytes());
                json!({"put": {"key": key, "value": number.to_string()}})
            })
            .collect();
        nodes[0].post("/v1/batch", &json!({"ops": ops})).expect(200).await;
        for key in ["000/0", "123/0", "250/1", "499/0"] {
            nodes[0].delete(kv(key)).expect(204).await;
            model.remove(key.as_bytes());
        }
        let bounds = [("", "", ""), ("1", "", ""), ("12", "", ""), ("x", "", ""), ("", "100", ""), ("", "", "100"),
                      ("", "100", "200"), ("1", "150", "160"), ("", "200", "100"), ("2", "1", "3"), ("", "123/0", "123/1")];
        for (prefix, start, end) in bounds {
            let wanted: Vec<_> = model
                .iter()
                .filter(|(key, _)| key.starts_with(prefix.as_bytes()))
                .filter(|(key, _)| start.is_empty() || key.as_slice() >= start.as_bytes())
                .filter(|(key, _)| end.is_empty() || key.as_slice() < end.as_bytes())
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            for limit in [1000, 100, 33] {
                let mut query = format!("limit={limit}");
                for (name, bound) in [("prefix", prefix), ("start", start), ("end", end)] {
                    if !bound.is_empty() {
                        query.push_str(&format!("&{name}={}", path_of(bound.as_bytes())));
                    }
                }
                assert_eq!(scan_all(&nodes[1], &query).await, wanted, "{query}");
            }
        }
    }
}

e2e! {
    /// Goal: a scan under writes never shows a state that its token does not cover, and a key that is there all the time
    /// is on exactly one page. Method: 300 fixed keys; other keys come and go while 40 full scans page through.
    async fn a_scan_under_writes_misses_and_repeats_nothing(places: 1, seconds: 90) {
        let cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        let ops: Vec<Value> =
            (0..300).map(|n| json!({"put": {"key": format!("s/{n:03}/fixed"), "value": "x"}})).collect();
        nodes[0].post("/v1/batch", &json!({"ops": ops})).expect(200).await;
        let writer = nodes[0].clone();
        let churn = tokio::spawn(async move {
            for number in 0u64.. {
                let key = kv(format!("s/{:03}/moving", number * 17 % 300));
                if number % 2 == 0 { writer.put(key, "y").expect(204).await } else { writer.delete(key).expect(204).await };
            }
        });
        for _ in 0..40 {
            let found = scan_all(&nodes[1], "prefix=s/&limit=23").await;
            assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "out of order, or twice");
            let fixed = found.iter().filter(|(key, _)| key.ends_with(b"fixed")).count();
            assert_eq!(fixed, 300, "a key that was there all the time was missed");
        }
        churn.abort();
        assert!(churn.await.is_err_and(|error| error.is_cancelled()), "the writer failed");
    }
}
