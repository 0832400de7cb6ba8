//! Which modules a PEFT configuration targets.

use fancy_regex::{Regex, RegexBuilder};

use super::{AdapterError, Names, PeftConfig};

/// Longest regular expression that is compiled, in bytes.
const MAX_PATTERN: usize = 4096;

/// Steps a match may backtrack, and bytes a compiled expression may take: a file must not be able to stall its reader.
const MAX_BACKTRACK: usize = 100_000;
const MAX_COMPILED: usize = 1 << 20;

/// What `all-linear` leaves out: PEFT skips the output embedding, which goes by these names.
const OUTPUT_HEADS: [&str; 2] = ["lm_head", "embed_out"];

/// Which modules a [`PeftConfig`] targets, compiled.
///
/// Follows PEFT's `check_target_module_exists`. Expressions are Python's; those the engine here does not know are refused.
#[derive(Debug)]
pub struct Selection<'a> {
    config: &'a PeftConfig,
    target: Option<Regex>,
    exclude: Option<Regex>,
    layer: Vec<Regex>,
}

impl<'a> Selection<'a> {
    /// Compiles the expressions of `config`.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`].
    pub fn new(config: &'a PeftConfig) -> Result<Self, AdapterError> {
        let whole = |field, names: &Names| match names {
            Names::Pattern(p) => compile(field, p, &format!(r"\A(?:{p})\z")).map(Some),
            _ => Ok(None),
        };
        let layer = match (&config.layers_to_transform, config.layers_pattern.as_slice()) {
            (None, _) => Vec::new(),
            (Some(_), []) => vec![compile("layers_pattern", "", r"\A(?:.*?\.[^.]*\.(?P<idx>\d+)\.)")?],
            (Some(_), patterns) => patterns
                .iter()
                .map(|p| compile("layers_pattern", p, &format!(r"\A(?:(?:^|.*?\.){p}\.(?P<idx>\d+)\.)")))
                .collect::<Result<_, _>>()?,
        };
        Ok(Self {
            config,
            target: whole("target_modules", &config.target_modules)?,
            exclude: config.exclude_modules.as_ref().map_or(Ok(None), |n| whole("exclude_modules", n))?,
            layer,
        })
    }

    /// Whether `module` is targeted.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`] if an expression takes too long on it.
    pub fn selects(&self, module: &str) -> Result<bool, AdapterError> {
        let excluded = match (&self.exclude, &self.config.exclude_modules) {
            (Some(regex), _) => matches("exclude_modules", regex, module)?,
            (None, Some(Names::List(names))) => listed(names, module),
            _ => false,
        };
        if excluded {
            return Ok(false);
        }
        match (&self.target, &self.config.target_modules) {
            (Some(regex), _) => matches("target_modules", regex, module),
            (None, Names::List(names)) if names.iter().any(|name| name == module) => Ok(true),
            (None, Names::List(names)) => Ok(listed(names, module) && self.selects_layer(module)?),
            (None, _) => Ok(!OUTPUT_HEADS.contains(&module)),
        }
    }

    fn selects_layer(&self, module: &str) -> Result<bool, AdapterError> {
        let Some(layers) = &self.config.layers_to_transform else { return Ok(true) };
        for regex in &self.layer {
            let found = regex.captures(module).map_err(|e| too_long("layers_pattern", regex, &e))?;
            if let Some(captures) = found {
                let index = captures.name("idx").and_then(|m| m.as_str().parse::<i64>().ok());
                return Ok(index.is_some_and(|index| layers.contains(&index)));
            }
        }
        Ok(false)
    }
}

/// Whether `module` is one of `names` or ends with one after a dot.
fn listed(names: &[String], module: &str) -> bool {
    names.iter().any(|name| match module.strip_suffix(name.as_str()) {
        Some(rest) => rest.is_empty() || rest.ends_with('.'),
        None => false,
    })
}

pub(super) fn compile(field: &'static str, pattern: &str, full: &str) -> Result<Regex, AdapterError> {
    let refused = |reason: String| AdapterError::Pattern { field, pattern: pattern.to_owned(), reason };
    if pattern.len() > MAX_PATTERN {
        let reason = format!("{} bytes long, at most {MAX_PATTERN} are compiled", pattern.len());
        return Err(AdapterError::Pattern { field, pattern: pattern.chars().take(80).collect(), reason });
    }
    RegexBuilder::new(full)
        .backtrack_limit(MAX_BACKTRACK)
        .delegate_size_limit(MAX_COMPILED)
        .delegate_dfa_size_limit(MAX_COMPILED)
        .build()
        .map_err(|e| refused(e.to_string()))
}

pub(super) fn matches(field: &'static str, regex: &Regex, module: &str) -> Result<bool, AdapterError> {
    regex.is_match(module).map_err(|e| too_long(field, regex, &e))
}

fn too_long(field: &'static str, regex: &Regex, error: &fancy_regex::Error) -> AdapterError {
    AdapterError::Pattern { field, pattern: regex.as_str().to_owned(), reason: error.to_string() }
}
