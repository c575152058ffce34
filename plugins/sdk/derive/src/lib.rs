//! `#[derive(ConfigSchema)]`: a configuration's JSON schema from its struct, made
//! while it compiles, as text that lies in the component and costs nothing until
//! it is asked for.
//!
//! Reads what serde reads (`rename`, `rename_all`, `default`, `alias`, `skip`,
//! `deny_unknown_fields`, `transparent`, `try_from`), so that both say the same,
//! and refuses what it cannot say (`flatten`, `untagged`, `tag`). Doc comments
//! become descriptions.

use proc_macro2::TokenStream;
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DataEnum, DataStruct, DeriveInput, Error, Expr, ExprLit, ExprUnary, Field, Fields, Lit, LitStr,
    Meta, Result, Token, Type, parse_macro_input,
};

/// Derives the SDK's `ConfigSchema`. Beside serde's attributes it reads
/// `#[schema(minimum = …, maximum = …)]` on numbers and `#[schema(min_length = …,
/// max_length = …)]` on texts.
#[proc_macro_derive(ConfigSchema, attributes(schema))]
pub fn config_schema(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    derive(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let container = Container::read(&input.attrs)?;
    if let Some(parameter) = input.generics.params.first() {
        return Err(Error::new(parameter.span(), "a configuration has no generic parameters"));
    }
    let mut json = Json::default();
    match (&container.from, &input.data) {
        (Some(source), _) => json.nested(&syn::parse_str::<Type>(&source.value())?),
        (None, Data::Struct(data)) => of_struct(data, &container, input, &mut json)?,
        (None, Data::Enum(data)) => of_enum(data, &container, input, &mut json)?,
        (None, Data::Union(_)) => return Err(Error::new(input.ident.span(), "a configuration is a struct or an enum")),
    }
    let (name, parts) = (&input.ident, json.parts());
    Ok(quote! {
        #[automatically_derived]
        impl ::vmgroup_policy_sdk::schema::ConfigSchema for #name {
            const SCHEMA: &'static [::vmgroup_policy_sdk::schema::Part] = &[#(#parts),*];
        }
    })
}

/// JSON text in the making, with other types' schemas in between.
#[derive(Default)]
struct Json {
    parts: Vec<TokenStream>,
    text: String,
}

impl Json {
    fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => self.text.extend(['\\', c]),
                c if c.is_control() => self.text.push(' '),
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }

    fn nested(&mut self, of: &Type) {
        self.flush();
        self.parts.push(quote! {
            ::vmgroup_policy_sdk::schema::Part::Nested(<#of as ::vmgroup_policy_sdk::schema::ConfigSchema>::SCHEMA)
        });
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            self.parts.push(quote! { ::vmgroup_policy_sdk::schema::Part::Text(#text) });
        }
    }

    fn parts(mut self) -> Vec<TokenStream> {
        self.flush();
        self.parts
    }
}

fn of_struct(data: &DataStruct, container: &Container, input: &DeriveInput, json: &mut Json) -> Result<()> {
    match &data.fields {
        Fields::Named(fields) if container.transparent => match fields.named.first() {
            Some(only) => json.nested(&only.ty),
            None => return Err(Error::new(input.ident.span(), "`transparent` without a field")),
        },
        Fields::Named(fields) => {
            let mut described = described(&input.attrs);
            object(fields.named.iter(), container, &mut described, json)?;
        }
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => json.nested(&fields.unnamed[0].ty),
        Fields::Unnamed(_) | Fields::Unit => {
            return Err(Error::new(input.ident.span(), "a configuration has named fields"));
        }
    }
    Ok(())
}

/// An object of these fields.
fn object<'a>(
    fields: impl Iterator<Item = &'a Field>,
    container: &Container,
    description: &mut Option<String>,
    json: &mut Json,
) -> Result<()> {
    json.text(r#"{"type":"object""#);
    if let Some(description) = description.take() {
        json.text(r#","description":"#);
        json.string(&description);
    }
    json.text(r#","properties":{"#);
    let mut required = Vec::new();
    let mut first = true;
    for field in fields {
        let one = FieldRules::read(field)?;
        if one.skipped {
            continue;
        }
        let ident = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
        let ident = ident.strip_prefix("r#").unwrap_or(&ident);
        let name = one.rename.clone().unwrap_or_else(|| container.rename_all.field(ident));
        if !one.default && !container.default && !is_option(&field.ty) {
            required.push(name.clone());
        }
        for name in std::iter::once(&name).chain(&one.aliases) {
            if !std::mem::take(&mut first) {
                json.text(",");
            }
            json.string(name);
            json.text(":");
            one.schema(field, json);
        }
    }
    json.text("}");
    if !required.is_empty() {
        json.text(r#","required":["#);
        for (index, name) in required.iter().enumerate() {
            json.text(if index > 0 { "," } else { "" });
            json.string(name);
        }
        json.text("]");
    }
    json.text(if container.deny_unknown { r#","additionalProperties":false}"# } else { "}" });
    Ok(())
}

/// A word for each variant without content, an object of one field for the others,
/// as serde tags them.
fn of_enum(data: &DataEnum, container: &Container, input: &DeriveInput, json: &mut Json) -> Result<()> {
    let mut words = Vec::new();
    let mut others = Vec::new();
    for variant in &data.variants {
        let rules = VariantRules::read(&variant.attrs)?;
        if rules.skipped {
            continue;
        }
        let name = rules.rename.unwrap_or_else(|| container.rename_all.variant(&variant.ident.to_string()));
        match &variant.fields {
            Fields::Unit => words.extend(std::iter::once(name).chain(rules.aliases)),
            fields => others.push((name, fields, described(&variant.attrs))),
        }
    }
    let description = described(&input.attrs);
    let mut opened = false;
    let alone = others.is_empty();
    if !alone {
        json.text(r#"{"anyOf":["#);
    }
    if !words.is_empty() {
        json.text(r#"{"enum":["#);
        for (index, word) in words.iter().enumerate() {
            json.text(if index > 0 { "," } else { "" });
            json.string(word);
        }
        json.text("]");
        if alone && let Some(description) = &description {
            json.text(r#","description":"#);
            json.string(description);
        }
        json.text("}");
        opened = true;
    }
    for (name, fields, mut description) in others {
        if std::mem::replace(&mut opened, true) {
            json.text(",");
        }
        json.text(r#"{"type":"object","properties":{"#);
        json.string(&name);
        json.text(":");
        match fields {
            Fields::Named(fields) => object(fields.named.iter(), container, &mut description, json)?,
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => json.nested(&fields.unnamed[0].ty),
            other => return Err(Error::new(other.span(), "a variant has one value or named fields")),
        }
        json.text(r#"},"required":["#);
        json.string(&name);
        json.text(r#"],"additionalProperties":false}"#);
    }
    if !alone {
        json.text("]}");
    }
    Ok(())
}

/// serde takes what is missing for none where the type is written as an option.
fn is_option(of: &Type) -> bool {
    matches!(of, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Option"))
}

/// The doc comment as one line.
fn described(attributes: &[Attribute]) -> Option<String> {
    let mut text = String::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        if let Meta::NameValue(meta) = &attribute.meta
            && let Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) = &meta.value
        {
            let line = line.value();
            text.push_str(if text.is_empty() { "" } else { " " });
            text.push_str(line.trim());
        }
    }
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn each_of(attributes: &[Attribute], name: &str, mut read: impl FnMut(ParseNestedMeta) -> Result<()>) -> Result<()> {
    attributes.iter().filter(|it| it.path().is_ident(name)).try_for_each(|it| it.parse_nested_meta(&mut read))
}

/// Passes over what an attribute is given that is of no concern here.
fn pass_over(meta: &ParseNestedMeta) -> Result<()> {
    if meta.input.peek(Token![=]) {
        meta.value()?.parse::<Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        let content;
        syn::parenthesized!(content in meta.input);
        Punctuated::<Meta, Token![,]>::parse_terminated(&content)?;
    }
    Ok(())
}

/// `rename = "x"`, or `rename(deserialize = "x")`.
fn for_reading(meta: &ParseNestedMeta) -> Result<Option<LitStr>> {
    if meta.input.peek(Token![=]) {
        return Ok(Some(meta.value()?.parse()?));
    }
    let mut found = None;
    meta.parse_nested_meta(|inner| {
        let text: LitStr = inner.value()?.parse()?;
        if inner.path.is_ident("deserialize") {
            found = Some(text);
        }
        Ok(())
    })?;
    Ok(found)
}

/// What serde is told about the whole type.
#[derive(Default)]
struct Container {
    rename_all: Case,
    deny_unknown: bool,
    default: bool,
    transparent: bool,
    from: Option<LitStr>,
}

impl Container {
    fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut rules = Self::default();
        each_of(attributes, "serde", |meta| {
            let is = |name| meta.path.is_ident(name);
            if is("rename_all") {
                if let Some(case) = for_reading(&meta)? {
                    rules.rename_all = Case::read(&case)?;
                }
            } else if is("try_from") || is("from") {
                rules.from = Some(meta.value()?.parse()?);
            } else if is("tag") || is("untagged") || is("content") || is("rename_all_fields") {
                return Err(meta.error("the schema of this cannot be derived: write `impl ConfigSchema` by hand"));
            } else {
                rules.deny_unknown |= is("deny_unknown_fields");
                rules.default |= is("default");
                rules.transparent |= is("transparent");
                pass_over(&meta)?;
            }
            Ok(())
        })?;
        Ok(rules)
    }
}

/// What serde is told about a variant.
#[derive(Default)]
struct VariantRules {
    rename: Option<String>,
    aliases: Vec<String>,
    skipped: bool,
}

impl VariantRules {
    fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut rules = Self::default();
        each_of(attributes, "serde", |meta| {
            if meta.path.is_ident("rename") {
                rules.rename = for_reading(&meta)?.map(|name| name.value());
            } else if meta.path.is_ident("alias") {
                rules.aliases.push(meta.value()?.parse::<LitStr>()?.value());
            } else {
                rules.skipped |= meta.path.is_ident("skip") || meta.path.is_ident("skip_deserializing");
                pass_over(&meta)?;
            }
            Ok(())
        })?;
        Ok(rules)
    }
}

/// What serde and we are told about a field.
#[derive(Default)]
struct FieldRules {
    rename: Option<String>,
    aliases: Vec<String>,
    default: bool,
    skipped: bool,
    /// Read in a way of its own, of which nothing is known here.
    opaque: bool,
    /// Further keywords, each as `"minimum":1`.
    keywords: Vec<String>,
    description: Option<String>,
}

impl FieldRules {
    fn read(field: &Field) -> Result<Self> {
        let mut rules = Self { description: described(&field.attrs), ..Self::default() };
        each_of(&field.attrs, "serde", |meta| {
            let is = |name| meta.path.is_ident(name);
            if is("rename") {
                rules.rename = for_reading(&meta)?.map(|name| name.value());
            } else if is("alias") {
                rules.aliases.push(meta.value()?.parse::<LitStr>()?.value());
            } else if is("flatten") {
                return Err(meta.error("the schema of this cannot be derived: write `impl ConfigSchema` by hand"));
            } else {
                rules.default |= is("default");
                rules.skipped |= is("skip") || is("skip_deserializing");
                rules.opaque |= is("with") || is("deserialize_with");
                pass_over(&meta)?;
            }
            Ok(())
        })?;
        each_of(&field.attrs, "schema", |meta| {
            let keyword = [
                ("minimum", "minimum"),
                ("maximum", "maximum"),
                ("min_length", "minLength"),
                ("max_length", "maxLength"),
            ];
            let Some((_, keyword)) = keyword.iter().find(|(name, _)| meta.path.is_ident(name)) else {
                return Err(meta.error("expected minimum, maximum, min_length or max_length"));
            };
            rules.keywords.push(format!("\"{keyword}\":{}", number(&meta.value()?.parse()?)?));
            Ok(())
        })?;
        Ok(rules)
    }

    fn schema(&self, field: &Field, json: &mut Json) {
        let bare = self.keywords.is_empty() && self.description.is_none();
        if self.opaque && bare {
            return json.text("{}");
        }
        if bare {
            return json.nested(&field.ty);
        }
        // Beside the type's own schema, which may have a description of its own.
        json.text("{");
        if let Some(description) = &self.description {
            json.text(r#""description":"#);
            json.string(description);
        }
        for (index, keyword) in self.keywords.iter().enumerate() {
            json.text(if index > 0 || self.description.is_some() { "," } else { "" });
            json.text(keyword);
        }
        if !self.opaque {
            json.text(r#","allOf":["#);
            json.nested(&field.ty);
            json.text("]");
        }
        json.text("}");
    }
}

/// A number as it stands in the source.
fn number(of: &Expr) -> Result<String> {
    match of {
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => Ok(number.base10_digits().to_owned()),
        Expr::Lit(ExprLit { lit: Lit::Float(number), .. }) => Ok(number.base10_digits().to_owned()),
        Expr::Unary(ExprUnary { op: syn::UnOp::Neg(_), expr, .. }) => Ok(format!("-{}", number(expr)?)),
        other => Err(Error::new(other.span(), "expected a number")),
    }
}

/// How serde spells names.
#[derive(Clone, Copy, Default)]
enum Case {
    #[default]
    AsIs,
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
    Kebab,
    ScreamingKebab,
}

impl Case {
    fn read(text: &LitStr) -> Result<Self> {
        Ok(match text.value().as_str() {
            "lowercase" => Self::Lower,
            "UPPERCASE" => Self::Upper,
            "PascalCase" => Self::Pascal,
            "camelCase" => Self::Camel,
            "snake_case" => Self::Snake,
            "SCREAMING_SNAKE_CASE" => Self::ScreamingSnake,
            "kebab-case" => Self::Kebab,
            "SCREAMING-KEBAB-CASE" => Self::ScreamingKebab,
            _ => return Err(Error::new(text.span(), "a case that serde does not know either")),
        })
    }

    /// Of a field's name, which is in snake case.
    fn field(self, name: &str) -> String {
        match self {
            Self::AsIs => name.to_owned(),
            _ => self.join(&name.split('_').collect::<Vec<_>>()),
        }
    }

    /// Of a variant's name, which is in Pascal case.
    fn variant(self, name: &str) -> String {
        if matches!(self, Self::AsIs) {
            return name.to_owned();
        }
        let starts: Vec<usize> = name.char_indices().filter(|(_, c)| c.is_uppercase()).map(|(at, _)| at).collect();
        let ends = starts.iter().skip(1).copied().chain([name.len()]);
        self.join(&starts.iter().zip(ends).map(|(start, end)| &name[*start..end]).collect::<Vec<_>>())
    }

    fn join(self, words: &[&str]) -> String {
        let capital = |word: &str| {
            let mut letters = word.chars();
            letters.next().map_or_else(String::new, |first| {
                first.to_uppercase().chain(letters.flat_map(char::to_lowercase)).collect()
            })
        };
        let (lower, upper) = (str::to_lowercase, str::to_uppercase);
        let all = |spell: &dyn Fn(&str) -> String, with: &str| {
            words.iter().map(|word| spell(word)).collect::<Vec<_>>().join(with)
        };
        match self {
            Self::AsIs => words.concat(),
            Self::Lower => all(&lower, ""),
            Self::Upper => all(&upper, ""),
            Self::Pascal => all(&capital, ""),
            Self::Camel => {
                let pascal = all(&capital, "");
                let mut letters = pascal.chars();
                letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
            }
            Self::Snake => all(&lower, "_"),
            Self::ScreamingSnake => all(&upper, "_"),
            Self::Kebab => all(&lower, "-"),
            Self::ScreamingKebab => all(&upper, "-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Case;

    #[test]
    fn names_are_spelt_as_serde_spells_them() {
        assert_eq!(Case::Camel.field("max_per_place"), "maxPerPlace");
        assert_eq!(Case::Camel.variant("PoweredOffFirst"), "poweredOffFirst");
        assert_eq!(Case::Kebab.variant("PoweredOffFirst"), "powered-off-first");
        assert_eq!(Case::ScreamingSnake.field("max_per_place"), "MAX_PER_PLACE");
        assert_eq!(Case::Lower.variant("MostFree"), "mostfree");
        assert_eq!(Case::AsIs.variant("MostFree"), "MostFree");
    }
}
