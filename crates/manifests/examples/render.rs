//! Renders the manifests for use by hand: values as JSON on stdin, a `List` for `kubectl` on stdout.

use manifests::{Values, render};
use serde_json::json;
use std::{error::Error, io};

fn main() -> Result<(), Box<dyn Error>> {
    let values: Values = serde_json::from_reader(io::stdin().lock())?;
    let objects = render(&values)?;
    let items: Vec<_> = objects.into_iter().map(|object| object.json).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    serde_json::to_writer_pretty(io::stdout().lock(), &list)?;
    println!();
    Ok(())
}
