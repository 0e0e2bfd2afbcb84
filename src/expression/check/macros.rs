//! Checks of macros: calls whose arguments are not values but names and expressions.

use std::ops::Range;
use std::sync::Arc;

use smol_str::{SmolStr, format_smolstr};

use crate::expression::ExpressionProblemKind;
use crate::expression::check::{Checker, Typed};
use crate::expression::fold::{Fold, FoldKind};
use crate::expression::node::Node;
use crate::expression::parse::{Ast, Kind};
use crate::expression::types::{Items, describe, is_open, items};
use crate::model::{Type, Value};

impl Checker<'_> {
    /// A macro that is called on a value, if it is one by its name and the number of its arguments.
    pub(super) fn method_macro(&mut self, tree: &Ast, name: &str, target: &Ast, arguments: &[Ast]) -> Option<Typed> {
        let (kind, pairs) = match (name, arguments.len()) {
            ("all", 2) => (FoldKind::All, false),
            ("all", 3) => (FoldKind::All, true),
            ("exists", 2) => (FoldKind::Exists, false),
            ("exists", 3) => (FoldKind::Exists, true),
            ("exists_one" | "existsOne", 2) => (FoldKind::ExistsOne, false),
            ("exists_one" | "existsOne", 3) => (FoldKind::ExistsOne, true),
            ("filter", 2) => (FoldKind::Filter, false),
            ("map", 2 | 3) => (FoldKind::List, false),
            ("transformList", 3 | 4) => (FoldKind::List, true),
            ("transformMap", 3 | 4) => (FoldKind::Map, true),
            ("transformMapEntry", 3 | 4) => (FoldKind::MapEntry, true),
            ("optMap" | "optFlatMap", 2) => return Some(self.optional_map(target, &arguments[0], &arguments[1], name == "optFlatMap")),
            ("or" | "orValue", 1) => return Some(self.optional_or(tree, target, &arguments[0], name == "orValue")),
            _ => return None,
        };
        Some(self.fold(kind, pairs, target, arguments))
    }

    fn fold(&mut self, kind: FoldKind, pairs: bool, target: &Ast, arguments: &[Ast]) -> Typed {
        let range = self.check(target);
        self.refuse_null(&range.ty, target);
        let (key, value, is_map) = match items(range.ty.strip_nullable()) {
            Items::Each { key, value, is_map } => (key, value, is_map),
            Items::NotIterable => {
                self.type_problem(&target.at, format!("`{}` is {}, not a list or map", self.text(target), describe(&range.ty)), None);
                (Type::Any, Type::Any, false)
            }
        };
        let open = is_open(range.ty.strip_nullable());
        let mut variables = Vec::new();
        let names = &arguments[..if pairs { 2 } else { 1 }];
        let types = match (pairs, is_map) {
            (true, _) => vec![if open { Type::Any } else { key.clone() }, value.clone()],
            (false, true) => vec![key.clone()],
            (false, false) => vec![value.clone()],
        };
        for (name, ty) in names.iter().zip(types) {
            match self.variable_name(name) {
                Some(name) => variables.push((name, ty)),
                None => {
                    self.problem(
                        ExpressionProblemKind::Syntax,
                        &name.at,
                        format!("`{}` must be a simple name", self.text(name)),
                        Some("as in `list.all(x, x > 0)`".to_owned()),
                    );
                    return Typed::unknown();
                }
            }
        }
        if pairs && variables[0].0 == variables[1].0 {
            self.problem(
                ExpressionProblemKind::Syntax,
                &arguments[1].at,
                format!("`{}` is the name of both variables", variables[0].0),
                None,
            );
        }
        let rest = &arguments[names.len()..];
        let element = if is_map { key.clone() } else { value };
        let count = variables.len();
        self.locals.extend(variables);
        let (condition, transform) = match (kind, rest) {
            (FoldKind::List | FoldKind::Map | FoldKind::MapEntry, [transform]) => (None, Some(self.check(transform))),
            (FoldKind::List | FoldKind::Map | FoldKind::MapEntry, [condition, transform]) => {
                let node = self.condition(condition);
                (Some(node), Some(self.given(condition, true, |checker| checker.check(transform))))
            }
            (_, [condition, ..]) => (Some(self.condition(condition)), None),
            _ => (None, None),
        };
        self.locals.truncate(self.locals.len() - count);
        let made = transform.as_ref().map_or(Type::Any, |typed| typed.ty.clone());
        let ty = match kind {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => Type::Bool,
            FoldKind::Filter => Type::list(element),
            FoldKind::List => Type::list(made),
            FoldKind::Map => Type::map(if open { Type::Any } else { key }, made),
            FoldKind::MapEntry => self.entry_type(made, rest.last().map_or(0..0, |tree| tree.at.clone())),
        };
        let fold = Fold { kind, range: range.node, pairs, condition, transform: transform.map(|typed| typed.node) };
        Typed { node: Node::Fold(Box::new(fold)), ty }
    }

    fn entry_type(&mut self, made: Type, at: Range<usize>) -> Type {
        match made {
            Type::Map(..) => made,
            open if is_open(&open) => Type::map(Type::Any, Type::Any),
            other => {
                self.type_problem(
                    &at,
                    format!("`transformMapEntry` needs a map, not {}", describe(&other)),
                    Some("as in `{k: v}`".to_owned()),
                );
                Type::Any
            }
        }
    }

    /// The name of a macro's variable: a plain name, or what optimizers write for one.
    pub(super) fn variable_name(&self, tree: &Ast) -> Option<SmolStr> {
        match &tree.kind {
            Kind::Name(name) if !name.starts_with('.') => Some(name.clone()),
            Kind::Call { name, target: Some(target), arguments, .. } if matches!(&target.kind, Kind::Name(space) if space == "cel") => {
                let numbers: Option<Vec<i64>> = arguments
                    .iter()
                    .map(|argument| match &argument.kind {
                        Kind::Literal(Value::Int(number)) => Some(*number),
                        _ => None,
                    })
                    .collect();
                Some(match (name.as_str(), numbers?.as_slice()) {
                    ("index", [number]) => format_smolstr!("@index{number}"),
                    ("iterVar", [depth, number]) => format_smolstr!("@it:{depth}:{number}"),
                    ("accuVar", [depth, number]) => format_smolstr!("@ac:{depth}:{number}"),
                    _ => return None,
                })
            }
            _ => None,
        }
    }

    /// `has(x.y)`
    pub(super) fn has(&mut self, field: &Ast) -> Typed {
        let Kind::Select { operand, field: name, field_at, optional: false } = &field.kind else {
            let help = match &field.kind {
                Kind::Name(name) => Some(format!("test a variable with `{name} != null`")),
                Kind::Index { operand, index, .. } => Some(format!("write `{} in {}`", self.text(index), self.text(operand))),
                _ => Some("as in `has(event.name)`".to_owned()),
            };
            self.problem(ExpressionProblemKind::Syntax, &field.at, "`has` needs a field", help);
            return Typed::unknown();
        };
        // A variable with a dot in its name is always there.
        let operand_typed = self.check(operand);
        let (_, of_nullable) = self.field_type(&operand_typed.ty, operand, name, field_at);
        Typed { node: Node::Has { operand: Box::new(operand_typed.node), name: name.clone(), of_nullable }, ty: Type::Bool }
    }

    pub(super) fn bind(&mut self, variable: &Ast, value: &Ast, body: &Ast) -> Typed {
        let Some(name) = self.variable_name(variable) else {
            self.problem(
                ExpressionProblemKind::Syntax,
                &variable.at,
                format!("`{}` must be a simple name", self.text(variable)),
                Some("as in `cel.bind(x, 2 + 3, x * x)`".to_owned()),
            );
            return Typed::unknown();
        };
        let value = self.check(value);
        self.locals.push((name, value.ty));
        let body = self.check(body);
        self.locals.pop();
        Typed { node: Node::Bind { value: Box::new(value.node), body: Box::new(body.node) }, ty: body.ty }
    }

    /// `cel.block([a, b], body)`: each is a variable for those after it.
    pub(super) fn block(&mut self, list: &Ast, body: &Ast) -> Typed {
        let Kind::List(elements) = &list.kind else {
            self.problem(ExpressionProblemKind::Syntax, &list.at, "`cel.block` needs a list", None);
            return Typed::unknown();
        };
        let mut values = Vec::with_capacity(elements.len());
        for (number, (element, _)) in elements.iter().enumerate() {
            let typed = self.check(element);
            self.locals.push((format_smolstr!("@index{number}"), typed.ty));
            values.push(typed.node);
        }
        let body = self.check(body);
        self.locals.truncate(self.locals.len() - elements.len());
        let node = values.into_iter().rev().fold(body.node, |body, value| Node::Bind { value: Box::new(value), body: Box::new(body) });
        Typed { node, ty: body.ty }
    }

    fn optional_map(&mut self, target: &Ast, variable: &Ast, body: &Ast, flat: bool) -> Typed {
        let operand = self.check(target);
        let inner = self.optional_content(&operand.ty, target);
        let Some(name) = self.variable_name(variable) else {
            self.problem(
                ExpressionProblemKind::Syntax,
                &variable.at,
                format!("`{}` must be a simple name", self.text(variable)),
                Some("as in `x.optMap(y, y + 1)`".to_owned()),
            );
            return Typed::unknown();
        };
        self.locals.push((name, inner));
        let made = self.check(body);
        self.locals.pop();
        let ty = match (&made.ty, flat) {
            (_, false) => Type::Optional(Arc::new(made.ty.clone())),
            (Type::Optional(_), true) => made.ty.clone(),
            (open, true) if is_open(open) => Type::Optional(Arc::new(Type::Any)),
            (other, true) => {
                self.type_problem(
                    &body.at,
                    format!("`optFlatMap` needs an optional, not {}", describe(other)),
                    Some("use `optMap`".to_owned()),
                );
                Type::Any
            }
        };
        Typed { node: Node::OptionalMap { operand: Box::new(operand.node), body: Box::new(made.node), flat }, ty }
    }

    fn optional_or(&mut self, tree: &Ast, target: &Ast, other: &Ast, unwrap: bool) -> Typed {
        let operand = self.check(target);
        let inner = self.optional_content(&operand.ty, target);
        let alternative = self.check(other);
        let alternative_ty = match (&alternative.ty, unwrap) {
            (ty, true) => ty.clone(),
            (Type::Optional(of), false) => (**of).clone(),
            (open, false) if is_open(open) => Type::Any,
            (ty, false) => {
                self.type_problem(&other.at, format!("`or` needs an optional, not {}", describe(ty)), Some("use `orValue`".to_owned()));
                Type::Any
            }
        };
        let branches = vec![
            (Typed { node: Node::Constant(Value::Null), ty: inner }, tree),
            (Typed { node: alternative.node, ty: alternative_ty }, other),
        ];
        let (mut nodes, ty) = self.joined(branches, "both values");
        let alternative = nodes.pop().unwrap_or(Node::Constant(Value::Null));
        let ty = if unwrap { ty } else { Type::Optional(Arc::new(ty)) };
        Typed { node: Node::OptionalOr { operand: Box::new(operand.node), alternative: Box::new(alternative), unwrap }, ty }
    }

    /// The type of what is in an optional.
    fn optional_content(&mut self, ty: &Type, tree: &Ast) -> Type {
        match ty {
            Type::Optional(inner) => (**inner).clone(),
            open if is_open(open) => open.clone(),
            other => {
                let help = match other {
                    Type::Nullable(_) => format!("write `coalesce({}, …)`", self.text(tree)),
                    _ => "`x.?field` and `optional.of(x)` yield one".to_owned(),
                };
                self.type_problem(&tree.at, format!("`{}` is {}, not an optional of CEL", self.text(tree), describe(other)), Some(help));
                Type::Any
            }
        }
    }
}
