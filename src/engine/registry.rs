//! Phase types by name, in the order of their registration.

use crate::error::{Error, Result, python_list};

/// A map from phase type to whatever makes such a phase.
#[derive(Debug, Clone)]
pub struct Registry<T>(Vec<(String, T)>);

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Registry<T> {
    /// Adds a type; one of the same name is replaced where it stands.
    pub fn register(&mut self, phase_type: &str, maker: T) {
        match self.0.iter_mut().find(|(name, _)| name == phase_type) {
            Some(entry) => entry.1 = maker,
            None => self.0.push((phase_type.to_owned(), maker)),
        }
    }

    /// The maker of a type, or an error that lists what there is.
    pub fn get(&self, phase_type: &str) -> Result<&T> {
        self.0.iter().find(|(name, _)| name == phase_type).map(|(_, maker)| maker).ok_or_else(|| {
            let available = python_list(&self.types());
            Error::Configuration(format!("Unknown phase type: {phase_type}. Available: {available}"))
        })
    }

    /// All types.
    pub fn types(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Forgets all types.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Registry;

    #[test]
    fn order_is_that_of_registration_and_a_replacement_keeps_its_place() {
        let mut registry = Registry::default();
        for (name, maker) in [("planning", 1), ("control", 2), ("planning", 3)] {
            registry.register(name, maker);
        }
        assert_eq!(registry.types(), ["planning", "control"]);
        assert_eq!(*registry.get("planning").unwrap(), 3);
        let error = registry.get("zz").unwrap_err().to_string();
        assert_eq!(error, "Unknown phase type: zz. Available: ['planning', 'control']");
        registry.clear();
        assert!(registry.types().is_empty());
    }
}
