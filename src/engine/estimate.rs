//! What carrying out a plan may use: a guess for whoever decides on the plan.

use serde_json::{Value, json};

use super::ledger::Total;

/// A guess at what is to come.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Model calls.
    pub calls: usize,
    /// Dollars; `None` where they cannot be told.
    pub cost: Option<f64>,
    /// How it was reckoned, in words.
    pub basis: String,
}

impl Estimate {
    /// For a plan of so many steps, from what was spent so far; `None` for a plan without steps.
    pub fn of_plan(steps: usize, spent: &Total) -> Option<Self> {
        // Part of the price is no price.
        let price = spent.usage.cost.filter(|_| spent.unpriced_models.is_empty());
        #[expect(clippy::cast_precision_loss, reason = "numbers of calls are small")]
        let cost = price.map(|cost| cost / spent.calls as f64 * steps as f64);
        let priced = cost.map(|_| format!("; priced like the average of the {} calls so far", spent.calls));
        let basis = format!("one model call a step, more when a script fails{}", priced.unwrap_or_default());
        (steps > 0).then_some(Self { calls: steps, cost, basis })
    }

    /// As a question shows it.
    pub fn to_json(&self) -> Value {
        json!({"calls": self.calls, "cost": self.cost, "basis": self.basis})
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Estimate, Total};
    use crate::engine::ledger::Line;
    use crate::llm::Usage;

    fn spent(costs: &[Option<f64>]) -> Total {
        let line = |cost: &Option<f64>| Line::new("planner", "m", Usage { cost: *cost, ..Usage::default() });
        Total::of(&costs.iter().map(line).collect::<Vec<_>>())
    }

    #[test]
    fn a_plan_is_priced_like_the_calls_before_it() {
        let estimate = Estimate::of_plan(3, &spent(&[Some(0.03), Some(0.01)])).unwrap();
        assert_eq!((estimate.calls, estimate.cost), (3, Some(0.06)));
        assert!(estimate.basis.ends_with("the average of the 2 calls so far"));
    }

    #[test]
    fn without_all_prices_there_is_none() {
        for costs in [&[][..], &[None], &[Some(0.03), None]] {
            let estimate = Estimate::of_plan(2, &spent(costs)).unwrap();
            assert_eq!((estimate.calls, estimate.cost), (2, None));
            assert!(!estimate.basis.contains("priced"));
        }
    }

    #[test]
    fn a_plan_without_steps_has_no_estimate() {
        assert_eq!(Estimate::of_plan(0, &spent(&[Some(0.03)])), None);
    }
}
