//! Checks of calls: which function is meant, which of its forms fits, and what the compiled call is.

use std::ops::Range;

use smol_str::{SmolStr, format_smolstr};

use crate::config::suggest::nearest;
use crate::expression::ExpressionProblemKind;
use crate::expression::check::{Checker, Typed, may_be_null_help};
use crate::expression::compare::Budget;
use crate::expression::functions::{Flavour, GREATEST, LEAST, pattern, type_of};
use crate::expression::node::{Frame, Node, Run};
use crate::expression::parse::{Ast, Kind};
use crate::expression::resolve::{Entry, Mismatch, Signature, entries, resolve};
use crate::expression::types::{describe, free, is_number, is_open, join_or_any};
use crate::model::{Type, Value};

impl Checker<'_> {
    pub(super) fn call(&mut self, tree: &Ast, name: &SmolStr, name_at: &Range<usize>, target: Option<&Ast>, arguments: &[Ast]) -> Typed {
        let bare = name.trim_start_matches('.');
        if let Some(target) = target {
            // `math.abs(x)`: a function with a name of two parts, unless the first is a variable.
            if let Some(space) = self.qualified(target) {
                let full = format!("{}.{bare}", space.trim_start_matches('.'));
                let is_variable = self.is_variable(target);
                if !is_variable && let Some(typed) = self.special(tree, &full, None, arguments) {
                    return typed;
                }
                if !is_variable && !entries(&full).is_empty() {
                    return self.plain_call(tree, &full, name_at, None, arguments);
                }
            }
            if let Some(typed) = self.method_macro(tree, bare, target, arguments) {
                return typed;
            }
            return self.plain_call(tree, bare, name_at, Some(target), arguments);
        }
        if let Some(typed) = self.special(tree, bare, None, arguments) {
            return typed;
        }
        self.plain_call(tree, bare, name_at, None, arguments)
    }

    /// Whether the names lead to a variable, so that what is called on it is a method.
    fn is_variable(&mut self, tree: &Ast) -> bool {
        let uses = self.uses.clone();
        let mut part = tree;
        loop {
            if let Some(name) = self.qualified(part)
                && self.variable(&name).is_some()
            {
                self.uses = uses;
                return true;
            }
            match &part.kind {
                Kind::Select { operand, .. } => part = operand,
                _ => return false,
            }
        }
    }

    /// A function of the table.
    fn plain_call(&mut self, tree: &Ast, name: &str, name_at: &Range<usize>, target: Option<&Ast>, arguments: &[Ast]) -> Typed {
        let trees: Vec<&Ast> = target.into_iter().chain(arguments).collect();
        let typed: Vec<Typed> = trees.iter().map(|tree| self.check(tree)).collect();
        let is_method = target.is_some();
        let rows: Vec<&Entry> = entries(name).iter().filter(|entry| !entry.function.is_special()).collect();
        let fitting_style = |signature: &&Signature| signature.is_method == is_method;
        if !rows.iter().any(|row| row.signatures.iter().any(|signature| fitting_style(&signature))) {
            return self.unknown_function(name, name_at, target, arguments.len());
        }
        let with_arity =
            |row: &&&Entry| row.signatures.iter().any(|signature| fitting_style(&signature) && signature.parameters.len() == trees.len());
        let Some(row) = rows.iter().find(with_arity) else {
            return self.wrong_arity(name, name_at, &rows, is_method, arguments.len());
        };
        let signatures: Vec<&Signature> = row.signatures.iter().filter(fitting_style).collect();
        let types: Vec<&Type> = typed.iter().map(|typed| &typed.ty).collect();
        let is_conversion = row.function.flavour == Flavour::Conversion;
        // A conversion takes what may be null, and then its result may be.
        let null_stays = is_conversion && types.len() == 1 && (matches!(types[0], Type::Nullable(_)) || *types[0] == Type::Null);
        let resolved = if null_stays && *types[0] == Type::Null {
            Ok(Type::Null)
        } else if null_stays {
            resolve(&signatures, &[types[0].strip_nullable()]).map(Type::nullable)
        } else {
            resolve(&signatures, &types)
        };
        let ty = resolved.unwrap_or_else(|mismatch| {
            self.mismatch(tree, name, &signatures, &trees, &types, mismatch);
            Type::Any
        });
        let function = row.function.name;
        let run = row.function.run;
        let mut nodes: Vec<Node> = typed.into_iter().map(|typed| typed.node).collect();
        if null_stays && let (Run::One(run), Some(argument)) = (run, nodes.pop()) {
            return Typed { node: Node::NullOr { run, argument: Box::new(argument) }, ty };
        }
        if name == "matches"
            && let [_, Node::Constant(Value::String(expression))] = nodes.as_slice()
        {
            return self.constant_pattern(expression.clone(), trees[1], nodes);
        }
        let node = Node::Call { function, run, arguments: nodes.into() };
        if is_conversion {
            self.report_unconvertible(&node, trees[0]);
        }
        self.folded(node, ty)
    }

    /// `decimal("9,90")` is wrong for every record, so it is a problem of the text.
    fn report_unconvertible(&mut self, node: &Node, argument: &Ast) {
        if !matches!(argument.kind, Kind::Literal(_)) || !self.problems.is_empty() {
            return;
        }
        let budget = Budget::new();
        if let Err(failure) = node.evaluate(&Frame { values: &[], local: None, budget: &budget }) {
            self.type_problem(&argument.at, failure.0.into_owned(), None);
        }
    }

    /// Compiles the pattern once, for all records.
    fn constant_pattern(&mut self, expression: SmolStr, tree: &Ast, mut nodes: Vec<Node>) -> Typed {
        nodes.truncate(1);
        let Some(text) = nodes.pop() else {
            return Typed::unknown();
        };
        let node = match pattern(&expression) {
            Ok(pattern) => Node::Matches { text: Box::new(text), pattern },
            Err(failure) => {
                self.type_problem(&tree.at, failure.0.to_string(), None);
                Node::Fail(failure.0.into_owned().into())
            }
        };
        Typed { node, ty: Type::Bool }
    }

    fn unknown_function(&mut self, name: &str, name_at: &Range<usize>, target: Option<&Ast>, count: usize) -> Typed {
        if self.options.unchecked {
            return Typed { node: Node::Fail(format_smolstr!("unbound function `{name}`")), ty: Type::Any };
        }
        let other_form = entries(name).first().map(|entry| entry.function.signatures[0]);
        let help = match (other_form, target) {
            (Some(_), Some(target))
                if count == 0 && entries(name).iter().any(|entry| entry.signatures.iter().any(|signature| !signature.is_method)) =>
            {
                Some(format!("write `{name}({})`", self.text(target)))
            }
            (Some(form), _) => Some(format!("its form is `{form}`")),
            (None, _) => {
                let known = self.known_functions();
                let last_part = |known: &&str| known.rsplit_once('.').is_some_and(|(_, last)| last == name);
                match known.iter().copied().find(last_part) {
                    Some(full) => Some(format!("did you mean `{full}(…)`?")),
                    None => match foreign_name(name).or_else(|| nearest(name, known.iter().copied())) {
                        Some(near) => Some(format!("did you mean `{near}`?")),
                        None => Some("`millstream describe` lists the functions".to_owned()),
                    },
                }
            }
        };
        let message = match target {
            Some(_) if other_form.is_some() => format!("`{name}` is not called like this"),
            None if other_form.is_some() => format!("`{name}` is called on a value"),
            _ => format!("no function `{name}`"),
        };
        self.problem(ExpressionProblemKind::UnknownFunction, name_at, message, help);
        Typed::unknown()
    }

    fn wrong_arity(&mut self, name: &str, name_at: &Range<usize>, rows: &[&Entry], is_method: bool, count: usize) -> Typed {
        if self.options.unchecked {
            return Typed { node: Node::Fail(format_smolstr!("no such overload: {name} with {count} arguments")), ty: Type::Any };
        }
        let forms: Vec<&str> = rows
            .iter()
            .flat_map(|row| &row.signatures)
            .filter(|signature| signature.is_method == is_method)
            .map(|signature| signature.text)
            .collect();
        let help = format!("its forms: `{}`", forms.join("`, `"));
        self.type_problem(name_at, format!("`{name}` does not take {count} argument{}", if count == 1 { "" } else { "s" }), Some(help));
        Typed::unknown()
    }

    fn mismatch(&mut self, tree: &Ast, name: &str, signatures: &[&Signature], trees: &[&Ast], types: &[&Type], mismatch: Mismatch) {
        match mismatch {
            Mismatch::MayBeNull(_) => {
                for (tree, ty) in trees.iter().zip(types) {
                    if matches!(ty, Type::Nullable(_)) {
                        let text = self.text(tree);
                        self.type_problem(&tree.at, format!("`{text}` may be null"), Some(may_be_null_help(text)));
                    }
                }
            }
            Mismatch::Argument(position, expected) => {
                let expected = expected.join(", ");
                let message = format!("`{name}` does not take {} here", describe(types[position]));
                let help = match (expected.as_str(), types[position]) {
                    ("string", ty)
                        if is_number(ty.strip_nullable())
                            || matches!(ty.strip_nullable(), Type::Timestamp | Type::Duration | Type::Bytes | Type::Bool) =>
                    {
                        format!("it takes string: convert it by `string({})`", self.text(trees[position]))
                    }
                    _ => format!("it takes {expected}"),
                };
                self.type_problem(&trees[position].at, message, Some(help));
            }
            Mismatch::Together => {
                let given: Vec<String> = types.iter().map(|ty| describe(ty)).collect();
                let forms: Vec<&str> = signatures.iter().map(|signature| signature.text).collect();
                self.type_problem(
                    &tree.at,
                    format!("`{name}` does not take ({})", given.join(", ")),
                    Some(format!("its forms: `{}`", forms.join("`, `"))),
                );
            }
        }
    }

    /// Functions that are compiled by code of their own.
    fn special(&mut self, tree: &Ast, name: &str, _target: Option<&Ast>, arguments: &[Ast]) -> Option<Typed> {
        Some(match (name, arguments) {
            ("cond", [condition, then, otherwise]) => self.conditional(condition, then, otherwise),
            ("not", [operand]) => self.not(operand),
            ("coalesce", [_, ..]) => self.coalesce(arguments),
            ("dyn", [value]) => Typed { node: self.check(value).node, ty: Type::Any },
            ("type", [value]) => {
                let typed = self.check(value);
                let run = Run::One(type_of);
                self.folded(Node::Call { function: "type", run, arguments: [typed.node].into() }, Type::Type)
            }
            ("has", [field]) => self.has(field),
            ("math.greatest" | "math.least", [_, ..]) => self.extreme(name == "math.greatest", arguments),
            ("cel.bind", [variable, value, body]) => self.bind(variable, value, body),
            ("cel.block", [list, body]) => self.block(list, body),
            ("cel.index" | "cel.iterVar" | "cel.accuVar", _) => {
                let name = self.variable_name(tree)?;
                let (hops, ty) = self.local(&name)?;
                Typed { node: Node::Local(hops), ty }
            }
            ("cond" | "not" | "coalesce" | "dyn" | "type" | "has" | "math.greatest" | "math.least" | "cel.bind" | "cel.block", _) => {
                let form = entries(name).first().map_or("", |entry| entry.function.signatures[0]);
                let count = arguments.len();
                let message = format!("`{name}` does not take {count} argument{}", if count == 1 { "" } else { "s" });
                self.problem(ExpressionProblemKind::TypeError, &tree.at, message, Some(format!("its form is `{form}`")));
                Typed::unknown()
            }
            _ => return None,
        })
    }

    fn coalesce(&mut self, arguments: &[Ast]) -> Typed {
        let branches: Vec<(Typed, &Ast)> = arguments.iter().map(|argument| (self.check(argument), argument)).collect();
        // Null only if all may be: the first that cannot be null ends the search.
        let never_null = branches.iter().any(|(typed, _)| !matches!(typed.ty, Type::Nullable(_) | Type::Null | Type::Any));
        let (nodes, ty) = self.joined(branches, "the values of `coalesce`");
        let ty = if never_null { ty.strip_nullable().clone() } else { ty };
        Typed { node: Node::Coalesce(nodes.into()), ty }
    }

    fn extreme(&mut self, greatest: bool, arguments: &[Ast]) -> Typed {
        let typed: Vec<Typed> = arguments.iter().map(|argument| self.check(argument)).collect();
        let mut all = free();
        for (typed, tree) in typed.iter().zip(arguments) {
            self.refuse_null(&typed.ty, tree);
            let ty = match typed.ty.strip_nullable() {
                Type::List(of) if arguments.len() == 1 => of.strip_nullable(),
                other => other,
            };
            if !is_open(ty) && !is_number(ty) {
                self.type_problem(&tree.at, format!("`{}` needs numbers, not {}", self.text(tree), describe(ty)), None);
            }
            all = join_or_any(&all, ty);
        }
        let (function, run) = if greatest { ("math.greatest", GREATEST) } else { ("math.least", LEAST) };
        let arguments: Vec<Node> = typed.into_iter().map(|typed| typed.node).collect();
        self.folded(Node::Call { function, run, arguments: arguments.into() }, all)
    }
}

/// The function that other languages call so.
fn foreign_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "length" | "len" | "count" => "size",
        "lower" | "toLowerCase" | "lowercase" => "lowerAscii",
        "upper" | "toUpperCase" | "uppercase" => "upperAscii",
        "concat" => "join",
        "substr" => "substring",
        "if" | "iif" | "when" => "cond",
        "ifnull" | "nvl" | "isnull" => "coalesce",
        "abs" => "math.abs",
        "max" => "math.greatest",
        "min" => "math.least",
        "str" | "toString" | "to_string" => "string",
        "float" => "double",
        "number" => "decimal",
        "any" => "exists",
        "match" | "regex" => "matches",
        "now" => "time",
        _ => return None,
    })
}
