//! The demo's last page: the card and the chart of one product, read back from where a service would read them.

use crate::cli::Io;
use crate::cli::demo::HERO;
use crate::http::client::ask;

/// From Redis, where there is one.
pub async fn views(io: &mut Io<'_>, url: &str) -> Result<(), String> {
    let said = |error: redis::RedisError| format!("cannot read back from Redis: {error}");
    let client = redis::Client::open(url).map_err(said)?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(said)?;
    let card: Vec<(String, String)> =
        redis::cmd("HGETALL").arg(format!("product:{HERO}")).query_async(&mut connection).await.map_err(said)?;
    let candles: Vec<String> =
        redis::cmd("ZRANGE").arg(format!("chart:{HERO}:1m")).arg(0).arg(-1).query_async(&mut connection).await.map_err(said)?;
    let candles: Vec<Candle> =
        candles.iter().filter_map(|text| Candle::of(&serde_json::from_str(text).ok()?, ["o", "h", "l", "c"])).collect();
    let mut text = fields(&format!("The card in Redis, product:{HERO}"), card.iter().map(|(field, value)| (field, value)));
    text.push_str(&format!("\nThe chart in Redis, chart:{HERO}:1m, {} candles of a minute\n{}", candles.len(), chart(&candles)));
    io.data(text);
    Ok(())
}

/// Over HTTP, from the tables themselves.
pub async fn tables(io: &mut Io<'_>, server: &str) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Windows {
        windows: Vec<serde_json::Value>,
    }
    let not_ours = |error: serde_json::Error| format!("{server} did not answer as a worker does: {error}");
    let row = ask(server, &format!("/tables/product/{HERO}"), None).await?.good()?;
    let row: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&row).map_err(not_ours)?;
    let windows = ask(server, &format!("/tables/price_ohlc_1m/{HERO}/windows?limit=1000"), None).await?.good()?;
    let windows: Windows = serde_json::from_slice(&windows).map_err(not_ours)?;
    let candles: Vec<Candle> =
        windows.windows.iter().filter_map(|window| Candle::of(window.get("row")?, ["open", "high", "low", "close"])).collect();
    let row = row.iter().map(|(field, value)| (field, value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    let mut text = fields(&format!("The row over HTTP, table product, key {HERO}"), row);
    text.push_str(&format!("\nThe windows over HTTP, table price_ohlc_1m, {} candles of a minute\n{}", candles.len(), chart(&candles)));
    io.data(text);
    Ok(())
}

fn fields(title: &str, fields: impl Iterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> String {
    let lines = fields.map(|(field, value)| format!("  {:<10} {}\n", field.as_ref(), value.as_ref()));
    format!("\n{title}\n{}", lines.collect::<String>())
}

struct Candle {
    open: f64,
    high: f64,
    low: f64,
    close: f64,
}

impl Candle {
    fn of(json: &serde_json::Value, [open, high, low, close]: [&str; 4]) -> Option<Candle> {
        let number = |name: &str| json.get(name)?.as_str()?.parse::<f64>().ok();
        Some(Candle { open: number(open)?, high: number(high)?, low: number(low)?, close: number(close)? })
    }
}

const CHART_ROWS: usize = 14;

/// Candles as text: `|` from low to high, `#` where it rose, `o` where it fell.
fn chart(candles: &[Candle]) -> String {
    let low = candles.iter().map(|candle| candle.low).fold(f64::INFINITY, f64::min);
    let high = candles.iter().map(|candle| candle.high).fold(f64::NEG_INFINITY, f64::max);
    if !low.is_finite() || high <= low {
        return "  (no candles)\n".into();
    }
    let row_of = |price: f64| ((high - price) / (high - low) * (CHART_ROWS - 1) as f64).round() as usize;
    let mut text = String::new();
    for row in 0..CHART_ROWS {
        let price = high - (high - low) * row as f64 / (CHART_ROWS - 1) as f64;
        text.push_str(&format!("  {price:>8.2} "));
        for candle in candles {
            let (top, bottom) = (row_of(candle.open.max(candle.close)), row_of(candle.open.min(candle.close)));
            let mark = match row {
                _ if row >= top && row <= bottom && candle.close >= candle.open => '#',
                _ if row >= top && row <= bottom => 'o',
                _ if row >= row_of(candle.high) && row <= row_of(candle.low) => '|',
                _ => ' ',
            };
            text.push(mark);
        }
        text.push('\n');
    }
    text
}
