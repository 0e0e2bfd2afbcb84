//! What a condition says about null: in `x != null && x > 1` the right side is only asked where `x` is there.

use crate::expression::check::Checker;
use crate::expression::parse::{Ast, BinaryOperator, Kind};
use crate::model::Value;

impl Checker<'_> {
    /// Whether a condition around this place has made sure that the part is not null.
    pub(super) fn is_present(&self, tree: &Ast) -> bool {
        !self.present.is_empty() && self.path(tree).is_some_and(|path| self.present.contains(&path))
    }

    /// Checks a part under what is known when the condition is true or false.
    pub(super) fn given<T>(&mut self, condition: &Ast, holds: bool, check: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.present.len();
        let mut facts = Vec::new();
        self.facts(condition, holds, &mut facts);
        self.present.extend(facts);
        let result = check(self);
        self.present.truncate(before);
        result
    }

    /// The paths that are not null when the condition is true (or false).
    fn facts(&self, condition: &Ast, holds: bool, facts: &mut Vec<String>) {
        match &condition.kind {
            Kind::And(left, right) if holds => {
                self.facts(left, holds, facts);
                self.facts(right, holds, facts);
            }
            Kind::Or(left, right) if !holds => {
                self.facts(left, holds, facts);
                self.facts(right, holds, facts);
            }
            Kind::Not(operand) => self.facts(operand, !holds, facts),
            Kind::Binary { operator, left, right } => {
                let is_null = |tree: &Ast| matches!(tree.kind, Kind::Literal(Value::Null));
                let other = if is_null(right) { left } else { right };
                let says_present = *operator == if holds { BinaryOperator::NotEqual } else { BinaryOperator::Equal };
                if says_present && (is_null(left) || is_null(right)) {
                    self.add_path(other, facts);
                }
            }
            Kind::Call { name, target: None, arguments, .. } => match (name.as_str(), arguments.as_slice()) {
                ("not", [operand]) => self.facts(operand, !holds, facts),
                ("has", [field]) if holds => self.add_path(field, facts),
                _ => {}
            },
            _ => {}
        }
    }

    /// What is not null is not in something that is null.
    fn add_path(&self, tree: &Ast, facts: &mut Vec<String>) {
        facts.extend(self.path(tree));
        if let Kind::Select { operand, .. } | Kind::Index { operand, .. } = &tree.kind {
            self.add_path(operand, facts);
        }
    }

    /// A name for `a.b.c`. A variable of a macro is told from others of its name by its depth.
    fn path(&self, tree: &Ast) -> Option<String> {
        match &tree.kind {
            Kind::Name(name) => match self.locals.iter().rposition(|(known, _)| known == name) {
                Some(depth) => Some(format!("#{depth}")),
                None => Some(name.to_string()),
            },
            Kind::Select { operand, field, optional: false, .. } => Some(format!("{}.{field}", self.path(operand)?)),
            Kind::Index { operand, index, optional: false } => match &index.kind {
                Kind::Literal(Value::String(field)) => Some(format!("{}.{field}", self.path(operand)?)),
                _ => None,
            },
            _ => None,
        }
    }
}
