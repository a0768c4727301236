//! The report for machines.

use serde_json::{Map, Value, json};

use crate::report::{Bound, Case, Report, Run, Verdict};

pub fn report(report: &Report) -> Value {
    let cases: Vec<Value> = report.cases.iter().map(case).collect();
    json!({ "machine": report.machine.json(), "cases": cases })
}

fn case(case: &Case) -> Value {
    let head = json!({ "name": case.name, "about": case.about, "seconds": case.seconds });
    let rest = match &case.outcome {
        Ok(outcome) => json!({
            "runs": outcome.runs.iter().map(run).collect::<Vec<_>>(),
            "verdicts": outcome.verdicts.iter().map(verdict).collect::<Vec<_>>(),
            "notes": outcome.notes,
        }),
        Err(error) => json!({ "error": format!("{error:#}") }),
    };
    let parts = [head, rest].into_iter().filter_map(|part| part.as_object().cloned());
    Value::Object(parts.flatten().collect())
}

fn run(run: &Run) -> Value {
    let mut fields = Map::new();
    fields.insert("round".to_owned(), json!(run.round));
    fields.insert("who".to_owned(), json!(run.who));
    for (metric, value) in &run.values {
        fields.insert(metric.name.to_owned(), json!(value));
    }
    if !run.curve.is_empty() {
        fields.insert("curve_ms".to_owned(), json!(run.curve));
    }
    Value::Object(fields)
}

fn verdict(verdict: &Verdict) -> Value {
    let (name, bound) = match verdict.bound {
        Bound::AtLeast(bound) => ("at_least", bound),
        Bound::AtMost(bound) => ("at_most", bound),
    };
    json!({
        "what": verdict.what,
        "median": verdict.measured(),
        name: bound,
        "is_met": verdict.is_met(),
        "samples": verdict.samples,
    })
}
