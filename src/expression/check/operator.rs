//! Checks of operators.

use crate::expression::check::{Checker, Typed, may_be_null_help};
use crate::expression::node::Node;
use crate::expression::parse::{Ast, BinaryOperator};
use crate::expression::resolve::{Mismatch, Signature, entries, resolve};
use crate::expression::types::{Items, comparable, describe, is_number, is_open, items};
use crate::model::Type;

impl Checker<'_> {
    pub(super) fn not(&mut self, operand: &Ast) -> Typed {
        let operand = self.condition(operand);
        self.folded(Node::Not(Box::new(operand)), Type::Bool)
    }

    pub(super) fn negate(&mut self, tree: &Ast, operand: &Ast) -> Typed {
        let typed = self.check(operand);
        let ty = self.arithmetic_type(tree, "-", &[operand], &[&typed.ty]);
        self.folded(Node::Negate(Box::new(typed.node)), ty)
    }

    /// `&&` and `||`: the right side is checked knowing what the left one says when it does not decide.
    pub(super) fn both(&mut self, left: &Ast, right: &Ast, is_and: bool) -> Typed {
        let left_node = self.condition(left);
        let right_node = self.given(left, is_and, |checker| checker.condition(right));
        let (left, right) = (Box::new(left_node), Box::new(right_node));
        Typed { node: if is_and { Node::And(left, right) } else { Node::Or(left, right) }, ty: Type::Bool }
    }

    pub(super) fn conditional(&mut self, condition: &Ast, then: &Ast, otherwise: &Ast) -> Typed {
        let condition_node = self.condition(condition);
        let then_typed = self.given(condition, true, |checker| checker.check(then));
        let otherwise_typed = self.given(condition, false, |checker| checker.check(otherwise));
        let (mut nodes, ty) = self.joined(vec![(then_typed, then), (otherwise_typed, otherwise)], "both values");
        let (Some(otherwise), Some(then)) = (nodes.pop(), nodes.pop()) else {
            return Typed::unknown();
        };
        Typed { node: Node::Conditional { condition: Box::new(condition_node), then: Box::new(then), otherwise: Box::new(otherwise) }, ty }
    }

    pub(super) fn binary(&mut self, tree: &Ast, operator: BinaryOperator, left: &Ast, right: &Ast) -> Typed {
        let (left_typed, right_typed) = (self.check(left), self.check(right));
        let (left_ty, right_ty) = (left_typed.ty, right_typed.ty);
        let (left_node, right_node) = (Box::new(left_typed.node), Box::new(right_typed.node));
        match operator {
            BinaryOperator::Add
            | BinaryOperator::Subtract
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Remainder => {
                let ty = self.arithmetic_type(tree, operator.symbol(), &[left, right], &[&left_ty, &right_ty]);
                self.folded(Node::Arithmetic { operator, left: left_node, right: right_node }, ty)
            }
            BinaryOperator::Equal | BinaryOperator::NotEqual => {
                self.equality(tree, operator, (left, &left_ty), (right, &right_ty));
                self.folded(Node::Equal { left: left_node, right: right_node, negated: operator == BinaryOperator::NotEqual }, Type::Bool)
            }
            BinaryOperator::In => {
                self.membership(tree, (left, &left_ty), (right, &right_ty));
                Typed { node: Node::In { item: left_node, container: right_node }, ty: Type::Bool }
            }
            BinaryOperator::Less | BinaryOperator::LessOrEqual | BinaryOperator::Greater | BinaryOperator::GreaterOrEqual => {
                self.ordering(tree, operator, (left, &left_ty), (right, &right_ty));
                self.folded(Node::Compare { operator, left: left_node, right: right_node }, Type::Bool)
            }
        }
    }

    /// The type of `a + b` by the signatures of the table.
    fn arithmetic_type(&mut self, tree: &Ast, symbol: &str, trees: &[&Ast], types: &[&Type]) -> Type {
        let signatures: Vec<&Signature> = entries(symbol).iter().flat_map(|entry| &entry.signatures).collect();
        match resolve(&signatures, types) {
            Ok(ty) => ty,
            Err(Mismatch::MayBeNull(_)) => {
                for (tree, ty) in trees.iter().zip(types) {
                    self.refuse_null(ty, tree);
                }
                Type::Any
            }
            Err(_) => {
                let message = match types {
                    [one] => format!("no `{symbol}` for {}", describe(one)),
                    _ => format!("no `{symbol}` for {} and {}", describe(types[0]), describe(types[1])),
                };
                let help = match types {
                    [a, b] => conversion_help(a.strip_nullable(), b.strip_nullable()).or_else(|| percent_help(symbol, a)),
                    _ => None,
                };
                self.type_problem(&tree.at, message, help);
                Type::Any
            }
        }
    }

    fn equality(&mut self, tree: &Ast, operator: BinaryOperator, (left, left_ty): (&Ast, &Type), (right, right_ty): (&Ast, &Type)) {
        if comparable(left_ty, right_ty) {
            return;
        }
        let (message, help) = match (left_ty, right_ty) {
            (Type::Null, _) | (_, Type::Null) => {
                let (other, ty) = if *left_ty == Type::Null { (right, right_ty) } else { (left, left_ty) };
                let text = self.text(other);
                let message = format!("`{text}` is {} and never null", describe(ty));
                (message, Some(format!("declare it `optional {}` if it may be missing, or leave the test out", describe(ty))))
            }
            _ => {
                let message = format!("`{}` cannot compare {} and {}", operator.symbol(), describe(left_ty), describe(right_ty));
                (message, conversion_help(left_ty.strip_nullable(), right_ty.strip_nullable()))
            }
        };
        self.type_problem(&tree.at, message, help);
    }

    fn ordering(&mut self, tree: &Ast, operator: BinaryOperator, (left, left_ty): (&Ast, &Type), (right, right_ty): (&Ast, &Type)) {
        let (a, b) = (left_ty.strip_nullable(), right_ty.strip_nullable());
        let has_order = |ty: &Type| {
            is_open(ty) || is_number(ty) || matches!(ty, Type::String | Type::Bytes | Type::Bool | Type::Timestamp | Type::Duration)
        };
        if has_order(a) && has_order(b) && comparable(a, b) {
            self.refuse_null(left_ty, left);
            self.refuse_null(right_ty, right);
            return;
        }
        let message = format!("`{}` cannot compare {} and {}", operator.symbol(), describe(left_ty), describe(right_ty));
        let help = if *a == Type::Null || *b == Type::Null {
            Some("null has no order: test with `== null`".to_owned())
        } else {
            conversion_help(a, b)
        };
        self.type_problem(&tree.at, message, help);
    }

    fn membership(&mut self, tree: &Ast, (item, item_ty): (&Ast, &Type), (container, container_ty): (&Ast, &Type)) {
        self.refuse_null(container_ty, container);
        let container_ty = container_ty.strip_nullable();
        let Items::Each { key, value, is_map } = items(container_ty) else {
            let help = match container_ty {
                Type::String => Some(format!("write `{}.contains({})`", self.text(container), self.text(item))),
                _ => None,
            };
            self.type_problem(&container.at, format!("`in` needs a list or map, not {}", describe(container_ty)), help);
            return;
        };
        let expected = if is_map { key } else { value };
        if is_map && matches!(item_ty, Type::Nullable(_)) {
            let text = self.text(item);
            self.type_problem(&item.at, format!("`{text}` may be null"), Some(may_be_null_help(text)));
        } else if !comparable(&expected, item_ty) {
            let what = if is_map { "keys" } else { "elements" };
            let message = format!("`in` cannot find {} among {what} of {}", describe(item_ty), describe(&expected));
            self.type_problem(&tree.at, message, conversion_help(&expected, item_ty));
        }
    }
}

/// How to bring two types together.
pub(super) fn conversion_help(a: &Type, b: &Type) -> Option<String> {
    let pair = |x: &Type, y: &Type| (a == x && b == y) || (a == y && b == x);
    let has = |x: &Type| a == x || b == x;
    let number = |ty: &Type| is_number(ty);
    Some(if pair(&Type::Decimal, &Type::Double) {
        "a double is not exact: convert it by `decimal(…)`, or write the number as `decimal(\"9.90\")`".to_owned()
    } else if pair(&Type::Decimal, &Type::String) {
        "write the number as `decimal(\"9.90\")`".to_owned()
    } else if pair(&Type::Int, &Type::Double) {
        "convert the int by `double(…)`, or write it with a point: `2.0`".to_owned()
    } else if pair(&Type::Int, &Type::Uint) {
        "convert one by `int(…)` or `uint(…)`, or write the number as `2u`".to_owned()
    } else if pair(&Type::Uint, &Type::Double) {
        "convert the uint by `double(…)`".to_owned()
    } else if pair(&Type::Timestamp, &Type::String) {
        "write the time as `timestamp(\"2026-01-01T00:00:00Z\")`".to_owned()
    } else if pair(&Type::Duration, &Type::String) {
        "write the span as `duration(\"1h30m\")`".to_owned()
    } else if pair(&Type::Timestamp, &Type::Int) {
        "convert the timestamp by `unix_ms(…)`".to_owned()
    } else if has(&Type::Timestamp) && has(&Type::Timestamp) && a == b {
        "times do not add up: `a - b` is the duration between them".to_owned()
    } else if has(&Type::String) && (number(a) || number(b)) {
        "convert the number by `string(…)`, or the text by `int(…)` or `decimal(…)`".to_owned()
    } else if has(&Type::String) {
        "convert the other by `string(…)`".to_owned()
    } else {
        return None;
    })
}

fn percent_help(symbol: &str, ty: &Type) -> Option<String> {
    (symbol == "%" && *ty == Type::Double)
        .then(|| "the remainder is for int, uint and decimal: convert by `int(…)` or `decimal(…)`".to_owned())
}
