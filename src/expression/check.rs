//! The checker: one walk over the tree finds every type, collects every problem and makes the compiled form.
//!
//! After a problem it goes on with `any`, which fits everywhere, so that one mistake is reported once. A part that may be null is
//! an error where a value is needed, unless a condition around it has made sure: `x != null && x > 1`, `has(x.y) ? x.y : …`.

mod call;
mod macros;
mod narrow;
mod operator;

use std::ops::Range;
use std::sync::Arc;

use smol_str::{SmolStr, format_smolstr};

use crate::config::suggest::did_you_mean;
use crate::expression::compare::Budget;
use crate::expression::node::{FieldSlot, Frame, Node};
use crate::expression::parse::{Ast, Kind};
use crate::expression::problem::Problems;
use crate::expression::resolve::{entries, function_names};
use crate::expression::types::{Items, comparable, describe, free, is_open, items, join, join_or_any, settle, type_named};
use crate::expression::{CompileOptions, ExpressionProblem, ExpressionProblemKind, Scope};
use crate::model::{Type, Value};

/// A part of the expression, compiled, and its type.
pub(super) struct Typed {
    pub node: Node,
    pub ty: Type,
}

/// What is known at one place of the walk.
pub(super) struct Checker<'s> {
    source: &'s str,
    scope: &'s Scope,
    options: &'s CompileOptions,
    problems: Problems,
    uses: Vec<bool>,
    /// Variables of the macros around this place, innermost last.
    locals: Vec<(SmolStr, Type)>,
    /// Paths that are not null here, because a condition says so.
    present: Vec<String>,
}

impl<'s> Checker<'s> {
    pub fn new(source: &'s str, scope: &'s Scope, options: &'s CompileOptions) -> Checker<'s> {
        let uses = vec![false; scope.variables.len()];
        Checker { source, scope, options, problems: Problems::default(), uses, locals: Vec::new(), present: Vec::new() }
    }

    /// Checks the whole expression.
    pub fn run(mut self, tree: &Ast) -> Result<(Node, Type, Box<[bool]>), Vec<ExpressionProblem>> {
        let typed = self.check(tree);
        if self.problems.is_empty() { Ok((typed.node, settle(&typed.ty), self.uses.into())) } else { Err(self.problems.into_sorted()) }
    }

    fn check(&mut self, tree: &Ast) -> Typed {
        let mut typed = match &tree.kind {
            Kind::Literal(value) => Typed { ty: value.type_of(), node: Node::Constant(value.clone()) },
            Kind::Name(name) => self.name(tree, name),
            Kind::Select { operand, field, field_at, optional } => self.select(tree, operand, field, field_at, *optional),
            Kind::Index { operand, index, optional } => self.index(operand, index, *optional),
            Kind::Not(operand) => self.not(operand),
            Kind::Negate(operand) => self.negate(tree, operand),
            Kind::And(left, right) => self.both(left, right, true),
            Kind::Or(left, right) => self.both(left, right, false),
            Kind::Binary { operator, left, right } => self.binary(tree, *operator, left, right),
            Kind::Conditional(parts) => self.conditional(&parts[0], &parts[1], &parts[2]),
            Kind::Call { name, name_at, target, arguments } => self.call(tree, name, name_at, target.as_deref(), arguments),
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) => self.map(entries),
            Kind::Message(name) => {
                self.problem(
                    ExpressionProblemKind::UnknownName,
                    &tree.at,
                    format!("there is no message type `{name}`"),
                    Some("a map is written `{\"field\": value}`".to_owned()),
                );
                Typed::unknown()
            }
        };
        if let Type::Nullable(inner) = &typed.ty
            && self.is_present(tree)
        {
            typed.ty = (**inner).clone();
        }
        if self.options.unchecked {
            typed.ty = Type::Any;
        }
        typed
    }

    fn problem(&mut self, kind: ExpressionProblemKind, at: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.problems.push(kind, at, message, help);
    }

    /// A problem of the types, which an expression that is not checked finds when it is evaluated.
    fn type_problem(&mut self, at: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        if !self.options.unchecked {
            self.problems.push(ExpressionProblemKind::TypeError, at, message, help);
        }
    }

    /// What stands in the text, for messages.
    fn text(&self, tree: &Ast) -> &'s str {
        self.source.get(tree.at.clone()).unwrap_or_default()
    }

    // Names.

    fn name(&mut self, tree: &Ast, name: &SmolStr) -> Typed {
        if let Some((hops, ty)) = self.local(name) {
            return Typed { node: Node::Local(hops), ty };
        }
        if let Some(typed) = self.variable(name) {
            return typed;
        }
        let bare = name.trim_start_matches('.');
        if let Some(ty) = type_named(bare) {
            return Typed { node: Node::Constant(Value::Type(ty)), ty: Type::Type };
        }
        if self.options.unchecked {
            return Typed { node: Node::Fail(format_smolstr!("undeclared reference to `{bare}`")), ty: Type::Any };
        }
        let help = if !entries(bare).is_empty() {
            Some(format!("`{bare}` is a function: write `{bare}(…)`"))
        } else {
            let mut known: Vec<&str> = self.locals.iter().map(|(name, _)| name.as_str()).filter(|name| !name.starts_with('@')).collect();
            known.extend(self.scope.variables.iter().map(|(name, _)| name.as_str()));
            match self.field_of_a_variable(bare) {
                Some(path) => Some(format!("did you mean `{path}`? a text is written `\"{bare}\"`")),
                None => did_you_mean(bare, known, "known here").or_else(|| Some(format!("a text is written `\"{bare}\"`"))),
            }
        };
        self.problem(ExpressionProblemKind::UnknownName, &tree.at, format!("no variable `{bare}`"), help);
        Typed::unknown()
    }

    /// The field that is meant by who writes `price` for `event.price`.
    fn field_of_a_variable(&self, name: &str) -> Option<String> {
        self.scope.variables.iter().find_map(|(variable, ty)| match ty.strip_nullable() {
            Type::Object(shape) if shape.slot(name).is_some() => Some(format!("{variable}.{name}")),
            _ => None,
        })
    }

    fn local(&self, name: &str) -> Option<(usize, Type)> {
        let hops = self.locals.iter().rev().position(|(known, _)| known == name)?;
        Some((hops, self.locals[self.locals.len() - 1 - hops].1.clone()))
    }

    /// A variable of the scope: in the container first, from within to without; a leading dot means without.
    fn variable(&mut self, name: &str) -> Option<Typed> {
        let found = match name.strip_prefix('.') {
            Some(bare) => self.scope.slot(bare),
            None => {
                let mut container = self.options.container.as_str();
                loop {
                    let found = if container.is_empty() { self.scope.slot(name) } else { self.scope.slot(&format!("{container}.{name}")) };
                    if found.is_some() || container.is_empty() {
                        break found;
                    }
                    container = container.rsplit_once('.').map_or("", |(outer, _)| outer);
                }
            }
        }?;
        self.uses[found] = true;
        Some(Typed { node: Node::Variable(found), ty: self.scope.variables[found].1.clone() })
    }

    /// `a.b.c`, if the tree is nothing but names, and its root no variable of a macro.
    fn qualified(&self, tree: &Ast) -> Option<String> {
        match &tree.kind {
            Kind::Name(name) if self.local(name).is_none() => Some(name.to_string()),
            Kind::Select { operand, field, optional: false, .. } => Some(format!("{}.{field}", self.qualified(operand)?)),
            _ => None,
        }
    }

    // Fields and elements.

    fn select(&mut self, tree: &Ast, operand: &Ast, field: &SmolStr, field_at: &Range<usize>, optional: bool) -> Typed {
        // The longest name that is known wins: `a.b.c` may be a variable of that name.
        if !optional && let Some(name) = self.qualified(tree) {
            if let Some(typed) = self.variable(&name) {
                return typed;
            }
            if let Some(ty) = type_named(&name) {
                return Typed { node: Node::Constant(Value::Type(ty)), ty: Type::Type };
            }
        }
        let typed = self.check(operand);
        self.member(typed, operand, field, field_at, optional)
    }

    /// The field of a part that was checked.
    fn member(&mut self, typed: Typed, operand: &Ast, field: &SmolStr, field_at: &Range<usize>, optional: bool) -> Typed {
        let (field_ty, of_nullable) = self.field_type(&typed.ty, operand, field, field_at);
        if optional {
            let inner = match &field_ty {
                Type::Optional(_) if matches!(typed.ty, Type::Optional(_)) => field_ty,
                other => Type::Optional(Arc::new(other.strip_nullable().clone())),
            };
            return Typed { node: Node::OptionalSelect { operand: Box::new(typed.node), name: field.clone(), of_nullable }, ty: inner };
        }
        let node = match typed.ty.strip_nullable() {
            Type::Object(shape) => match shape.slot(field) {
                Some(slot) => {
                    let field = FieldSlot { shape: shape.clone(), slot, name: field.clone(), of_nullable };
                    match typed.node {
                        Node::Variable(variable) => Node::VariableField { variable, field },
                        other => Node::Field { operand: Box::new(other), field },
                    }
                }
                None => Node::Select { operand: Box::new(typed.node), name: field.clone() },
            },
            _ => Node::Select { operand: Box::new(typed.node), name: field.clone() },
        };
        Typed { node, ty: field_ty }
    }

    /// The type of a field, and whether the object around it may be null: then so may the field.
    fn field_type(&mut self, ty: &Type, operand: &Ast, field: &SmolStr, field_at: &Range<usize>) -> (Type, bool) {
        let of_nullable = matches!(ty, Type::Nullable(_));
        let found = match ty.strip_nullable() {
            _ if self.options.unchecked || is_open(ty) => Type::Any,
            Type::Object(shape) => match shape.slot(field) {
                Some(slot) => shape.fields[slot].ty.clone(),
                None => {
                    let known: Vec<&str> = shape.fields.iter().map(|field| field.name.as_str()).collect();
                    let help = did_you_mean(field, known, "fields");
                    self.problem(
                        ExpressionProblemKind::UnknownField,
                        field_at,
                        format!("no field `{field}` in `{}`", self.text(operand)),
                        help,
                    );
                    Type::Any
                }
            },
            Type::Map(key, value) if is_open(key) || **key == Type::String => {
                self.refuse_null(ty, operand);
                (**value).clone()
            }
            Type::Optional(inner) => {
                let (inner, _) = self.field_type(inner, operand, field, field_at);
                return (Type::Optional(Arc::new(inner.strip_nullable().clone())), false);
            }
            other => {
                let help = match other {
                    Type::List(_) => Some("an element is read by its position: `list[0]`; all of them by `list.map(x, …)`".to_owned()),
                    Type::Timestamp => Some(
                        "a part of a timestamp is read by a function: `getFullYear()`, `getHours(\"Europe/Berlin\")`, `unix_ms(t)`"
                            .to_owned(),
                    ),
                    _ => None,
                };
                let message = format!("no field `{field}`: `{}` is {}", self.text(operand), describe(other));
                self.problem(ExpressionProblemKind::UnknownField, field_at, message, help);
                Type::Any
            }
        };
        if of_nullable { (Type::nullable(found), true) } else { (found, false) }
    }

    fn index(&mut self, operand: &Ast, index: &Ast, optional: bool) -> Typed {
        let operand_typed = self.check(operand);
        // A constant name of a declared object is its field, whatever characters it has.
        if let Kind::Literal(Value::String(field)) = &index.kind
            && matches!(operand_typed.ty.strip_nullable(), Type::Object(_))
            && !is_open(&operand_typed.ty)
        {
            return self.member(operand_typed, operand, field, &index.at, optional);
        }
        let index_typed = self.check(index);
        self.refuse_null(&operand_typed.ty, operand);
        self.refuse_null(&index_typed.ty, index);
        let (container, is_optional) = match operand_typed.ty.strip_nullable() {
            Type::Optional(inner) => ((**inner).clone(), true),
            other => (other.clone(), optional),
        };
        let index_ty = index_typed.ty.strip_nullable();
        let element = match &container {
            open if is_open(open) => Type::Any,
            Type::List(of) => {
                if !is_open(index_ty) && *index_ty != Type::Int {
                    self.type_problem(&index.at, format!("the position in a list must be int, not {}", describe(index_ty)), None);
                }
                (**of).clone()
            }
            Type::Map(key, value) => {
                if !comparable(key, index_ty) {
                    self.type_problem(&index.at, format!("the keys of this map are {}, not {}", describe(key), describe(index_ty)), None);
                }
                (**value).clone()
            }
            Type::Object(_) => {
                if !is_open(index_ty) && *index_ty != Type::String {
                    self.type_problem(&index.at, format!("a field is named by a string, not {}", describe(index_ty)), None);
                }
                match items(&container) {
                    Items::Each { value, .. } => settle(&value),
                    Items::NotIterable => Type::Any,
                }
            }
            other => {
                self.type_problem(&operand.at, format!("`{}` is {}, and has no elements", self.text(operand), describe(other)), None);
                Type::Any
            }
        };
        let ty = if is_optional { Type::Optional(Arc::new(element)) } else { element };
        self.folded(Node::Index { operand: Box::new(operand_typed.node), index: Box::new(index_typed.node), optional }, ty)
    }

    // Literals.

    fn list(&mut self, elements: &[(Ast, bool)]) -> Typed {
        let mut of = free();
        let mut nodes = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            let typed = self.check(element);
            let ty = if *optional { self.unwrapped(&typed.ty, element) } else { typed.ty };
            of = join_or_any(&of, &ty);
            nodes.push((typed.node, *optional));
        }
        self.folded(Node::List(nodes.into()), Type::list(of))
    }

    fn map(&mut self, entries: &[(Ast, Ast, bool)]) -> Typed {
        let (mut key_of, mut value_of) = (free(), free());
        let mut nodes = Vec::with_capacity(entries.len());
        for (key, value, optional) in entries {
            let key_typed = self.check(key);
            if !matches!(key_typed.ty, Type::Bool | Type::Int | Type::Uint | Type::String) && !is_open(&key_typed.ty) {
                let help = if matches!(key_typed.ty, Type::Nullable(_)) { Some(may_be_null_help(self.text(key))) } else { None };
                self.type_problem(
                    &key.at,
                    format!("the key of a map must be bool, int, uint or string, not {}", describe(&key_typed.ty)),
                    help,
                );
            }
            let value_typed = self.check(value);
            let value_ty = if *optional { self.unwrapped(&value_typed.ty, value) } else { value_typed.ty };
            key_of = join_or_any(&key_of, &key_typed.ty);
            value_of = join_or_any(&value_of, &value_ty);
            nodes.push((key_typed.node, value_typed.node, *optional));
        }
        self.folded(Node::Map(nodes.into()), Type::map(key_of, value_of))
    }

    /// What is in the optional of `[?x]` and `{?k: x}`.
    fn unwrapped(&mut self, ty: &Type, tree: &Ast) -> Type {
        match ty {
            Type::Optional(inner) => (**inner).clone(),
            open if is_open(open) => Type::Any,
            other => {
                self.type_problem(
                    &tree.at,
                    format!("`?` needs an optional, not {}", describe(other)),
                    Some("`x.?field` and `optional.of(x)` yield one".to_owned()),
                );
                Type::Any
            }
        }
    }

    // Helpers of all parts.

    /// Reports a part that may be null where a value is needed.
    fn refuse_null(&mut self, ty: &Type, tree: &Ast) {
        if matches!(ty, Type::Nullable(_)) {
            let text = self.text(tree);
            self.type_problem(&tree.at, format!("`{text}` may be null"), Some(may_be_null_help(text)));
        }
    }

    /// Checks a part that must be a bool.
    fn condition(&mut self, tree: &Ast) -> Node {
        let typed = self.check(tree);
        self.refuse_null(&typed.ty, tree);
        let ty = typed.ty.strip_nullable();
        if !is_open(ty) && *ty != Type::Bool {
            let help = match ty {
                Type::Int | Type::Uint | Type::Double | Type::Decimal => Some(format!("compare it: `{} != 0`", self.text(tree))),
                Type::String => Some(format!("compare it: `{} == \"…\"`, or read it by `bool(…)`", self.text(tree))),
                _ => None,
            };
            self.type_problem(&tree.at, format!("`{}` must be bool, not {}", self.text(tree), describe(ty)), help);
        }
        typed.node
    }

    /// The node, or its value if all of it is constant. What fails stays: it may stand where it is never evaluated.
    fn folded(&mut self, node: Node, ty: Type) -> Typed {
        if !node.is_constant() {
            return Typed { node, ty };
        }
        let budget = Budget::new();
        let value = node.evaluate(&Frame { values: &[], local: None, budget: &budget }).map(|value| value.into_owned());
        match value {
            Ok(value) => Typed { node: Node::Constant(value), ty },
            Err(_) => Typed { node, ty },
        }
    }

    /// The type of one of two branches, an int turned into a decimal where the other is one.
    fn joined(&mut self, mut branches: Vec<(Typed, &Ast)>, what: &str) -> (Vec<Node>, Type) {
        let is_decimal = |ty: &Type| *ty.strip_nullable() == Type::Decimal;
        let is_whole = |ty: &Type| matches!(ty.strip_nullable(), Type::Int | Type::Uint);
        if branches.iter().any(|(typed, _)| is_decimal(&typed.ty)) {
            for (typed, _) in branches.iter_mut().filter(|(typed, _)| is_whole(&typed.ty)) {
                let ty = if matches!(typed.ty, Type::Nullable(_)) { Type::nullable(Type::Decimal) } else { Type::Decimal };
                let node = std::mem::replace(&mut typed.node, Node::Constant(Value::Null));
                *typed = self.folded(Node::ToDecimal(Box::new(node)), ty);
            }
        }
        let mut all = free();
        for (typed, tree) in &branches {
            match join(&all, &typed.ty) {
                Some(joined) => all = joined,
                None => {
                    let message = format!("{what} must be of one type: {} here, {} before", describe(&typed.ty), describe(&all));
                    let help = operator::conversion_help(&all, &typed.ty)
                        .or_else(|| Some("`dyn(…)` around one of them leaves the type open".to_owned()));
                    self.type_problem(&tree.at, message, help);
                    all = Type::Any;
                }
            }
        }
        (branches.into_iter().map(|(typed, _)| typed.node).collect(), all)
    }

    fn known_functions(&self) -> Vec<&'static str> {
        function_names().collect()
    }
}

impl Typed {
    /// Goes on after a problem: fits everywhere.
    fn unknown() -> Typed {
        Typed { node: Node::Constant(Value::Null), ty: Type::Any }
    }
}

/// How to get rid of null.
fn may_be_null_help(text: &str) -> String {
    if text.len() > 40 {
        return "give a value for null with `coalesce(…, value)`, or test it first: `x != null && …`".to_owned();
    }
    format!("write `coalesce({text}, …)`, or test it first: `{text} != null && …`")
}

impl Node {
    /// Whether its parts are all constants, so that it can be evaluated now.
    fn is_constant(&self) -> bool {
        let constant = |node: &Node| matches!(node, Node::Constant(_));
        match self {
            Node::Constant(_) => true,
            Node::Negate(a) | Node::Not(a) | Node::ToDecimal(a) => constant(a),
            Node::Arithmetic { left, right, .. } | Node::Equal { left, right, .. } | Node::Compare { left, right, .. } => {
                constant(left) && constant(right)
            }
            Node::Index { operand, index, .. } => constant(operand) && constant(index),
            Node::List(elements) => elements.iter().all(|(element, _)| constant(element)),
            Node::Map(entries) => entries.iter().all(|(key, value, _)| constant(key) && constant(value)),
            Node::Call { arguments, .. } => arguments.iter().all(constant),
            _ => false,
        }
    }
}
