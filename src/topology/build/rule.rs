//! Field rules: what a source sets in a row, and the type that the field has by it.

use crate::config::codes;
use crate::config::spec::Mapped;
use crate::config::spec::RuleBlock;
use crate::expression;
use crate::expression::Scope;
use crate::model::Type;
use crate::operators::fold::Rule;
use crate::topology::compile::Compiler;
use crate::topology::compile::Nulls;
use crate::topology::compile::Want;

impl Compiler<'_> {
    /// A compiled rule, and the type of the field once a record has been there.
    pub(super) fn rule(&mut self, rule: &RuleBlock, scope: &Scope) -> Option<(Rule, Type)> {
        Some(match rule {
            RuleBlock::Last(expression) => {
                let (program, ty) = self.value(expression, scope)?;
                (Rule::Last(program), ty)
            }
            RuleBlock::First(expression) => {
                let (program, ty) = self.value(expression, scope)?;
                (Rule::First(program), ty)
            }
            RuleBlock::Min(expression) => {
                let program = self.wanted(expression, scope, Want::Ordered, Nulls::Allowed, "what `min` compares")?;
                let ty = program.ty().clone();
                (Rule::Min(program), ty)
            }
            RuleBlock::Max(expression) => {
                let program = self.wanted(expression, scope, Want::Ordered, Nulls::Allowed, "what `max` compares")?;
                let ty = program.ty().clone();
                (Rule::Max(program), ty)
            }
            RuleBlock::Sum(expression) => {
                let program = self.wanted(expression, scope, Want::Number, Nulls::Allowed, "what `sum` adds")?;
                let ty = program.ty().strip_nullable().clone();
                (Rule::Sum(program), ty)
            }
            RuleBlock::Count(_) => (Rule::Count, Type::Int),
            RuleBlock::Avg(expression) => {
                let program = self.wanted(expression, scope, Want::Number, Nulls::Allowed, "what `avg` takes the mean of")?;
                let ty = avg_type(program.ty());
                (Rule::Avg(program), ty)
            }
            RuleBlock::Collect { value, limit } => {
                let (value, ty) = self.mapped(value, scope)?;
                (Rule::Collect { value, limit: *limit }, Type::list(ty))
            }
            RuleBlock::Distinct { value, limit } => self.distinct(value, *limit, scope)?,
            RuleBlock::Top { by, limit, value } => {
                let by = self.wanted(by, scope, Want::Ordered, Nulls::Refused, "what `top` judges by");
                let value = match value {
                    Some(value) => self.mapped(value, scope),
                    // `event` is a name of this scope, so it compiles.
                    None => expression::compile("event", scope).ok().map(|program| (program.clone(), program.ty().clone())),
                };
                let (value, ty) = value?;
                (Rule::Top { value, by: by?, limit: *limit }, Type::list(ty))
            }
            RuleBlock::Put { at, value } => {
                let at = self.wanted(at, scope, Want::MapKey, Nulls::Refused, "the key of an entry");
                let (value, ty) = self.mapped(value, scope)?;
                let at = at?;
                let ty = Type::map(at.ty().clone(), ty);
                (Rule::Put { at, value }, ty)
            }
            RuleBlock::Remove { at } => {
                let at = self.wanted(at, scope, Want::MapKey, Nulls::Refused, "the key of an entry")?;
                let ty = Type::map(at.ty().clone(), Type::Any);
                (Rule::Remove { at }, ty)
            }
        })
    }

    /// Distinct values are kept in their order, so they must have one.
    fn distinct(&mut self, value: &Mapped, limit: usize, scope: &Scope) -> Option<(Rule, Type)> {
        match value {
            Mapped::Whole(expression) => {
                let value = self.wanted(expression, scope, Want::Ordered, Nulls::Allowed, "what `distinct` compares")?;
                let ty = Type::list(value.ty().strip_nullable().clone());
                Some((Rule::Distinct { value, limit }, ty))
            }
            Mapped::Fields(fields) => {
                let message = "what `distinct` compares is a value that has an order, not a map";
                self.diagnostics.push(codes::NOT_ORDERED, fields.at, message).help("compare one field, or use `put` with a key");
                None
            }
        }
    }
}

/// The mean of decimals is a decimal; that of all other numbers is a double.
fn avg_type(of: &Type) -> Type {
    let mean = match of.strip_nullable() {
        Type::Decimal => Type::Decimal,
        Type::Any => Type::Any,
        _ => Type::Double,
    };
    if matches!(of, Type::Nullable(_)) { Type::nullable(mean) } else { mean }
}

/// Whether a field with this rule has a value before its first record: nothing counted is 0, nothing collected an empty list.
pub(super) fn has_neutral_value(rule: &RuleBlock) -> bool {
    match rule {
        RuleBlock::Last(_) | RuleBlock::First(_) | RuleBlock::Min(_) | RuleBlock::Max(_) | RuleBlock::Avg(_) => false,
        RuleBlock::Sum(_) | RuleBlock::Count(_) => true,
        RuleBlock::Collect { .. }
        | RuleBlock::Distinct { .. }
        | RuleBlock::Top { .. }
        | RuleBlock::Put { .. }
        | RuleBlock::Remove { .. } => true,
    }
}

/// Whether two sources may feed one field with these rules: the result must not depend on which of them came first.
pub(super) fn combine(one: &RuleBlock, other: &RuleBlock) -> bool {
    matches!(
        (one, other),
        (RuleBlock::Put { .. } | RuleBlock::Remove { .. }, RuleBlock::Put { .. } | RuleBlock::Remove { .. })
            | (RuleBlock::Sum(_), RuleBlock::Sum(_))
            | (RuleBlock::Count(_), RuleBlock::Count(_))
            | (RuleBlock::Min(_), RuleBlock::Min(_))
            | (RuleBlock::Max(_), RuleBlock::Max(_))
            | (RuleBlock::Avg(_), RuleBlock::Avg(_))
            | (RuleBlock::Distinct { .. }, RuleBlock::Distinct { .. })
            | (RuleBlock::Top { .. }, RuleBlock::Top { .. })
    )
}
