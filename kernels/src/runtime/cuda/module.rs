//! A compiled PTX text: its functions, and the parameters that their entries declare.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex};

use cudarc::driver::sys;

use super::{Cuda, check};
use crate::runtime::device::lock;
use crate::{Error, Result};

/// A parameter of an entry: name and bytes.
pub(super) type Parameter = (String, usize);

#[derive(Debug)]
pub(super) struct Module {
    handle: sys::CUmodule,
    signatures: HashMap<String, Vec<Parameter>>,
    functions: Mutex<HashMap<String, sys::CUfunction>>,
}

// SAFETY: handles of the driver, which any thread may use.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    pub(super) fn load(cuda: &Arc<Cuda>, text: &'static str) -> Result<Module> {
        cuda.bind()?;
        let refuse = || Error::Ptx { call: "cuModuleLoadData", name: "a text with a NUL inside".into(), text: headline(text) };
        let image = CString::new(text).map_err(|_| refuse())?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the image ends with NUL, which is how the driver finds the end of a text.
        let code = unsafe { sys::cuModuleLoadData(&mut handle, image.as_ptr().cast()) };
        check("cuModuleLoadData", code).map_err(|error| match error {
            Error::Ptx { call, name, .. } => Error::Ptx { call, name, text: headline(text) },
            other => other,
        })?;
        Ok(Module { handle, signatures: signatures(text), functions: Mutex::default() })
    }

    /// What an entry declares.
    pub(super) fn signature(&self, entry: &str) -> Result<&[Parameter]> {
        match self.signatures.get(entry) {
            Some(signature) => Ok(signature),
            None => Err(Error::Signature { entry: entry.into(), expected: "an entry of that name in the text".into(), got: "none".into() }),
        }
    }

    pub(super) fn function(&self, entry: &str) -> Result<sys::CUfunction> {
        if let Some(function) = lock(&self.functions).get(entry) {
            return Ok(*function);
        }
        let mut function = std::ptr::null_mut();
        let missing = || Error::Signature { entry: entry.into(), expected: "a name without NUL".into(), got: "one with".into() };
        let name = CString::new(entry).map_err(|_| missing())?;
        // SAFETY: the module is loaded; the name ends with NUL.
        check("cuModuleGetFunction", unsafe { sys::cuModuleGetFunction(&mut function, self.handle, name.as_ptr()) })?;
        lock(&self.functions).insert(entry.into(), function);
        Ok(function)
    }

    /// The entries that have been launched.
    #[cfg(feature = "testing")]
    pub(super) fn launched(&self) -> Vec<String> {
        lock(&self.functions).keys().cloned().collect()
    }

    /// Gives the code back, when the device is closed.
    pub(super) fn unload(&self) {
        // SAFETY: loaded in `load`. Nothing is left to do about a driver that refuses.
        let _ = unsafe { sys::cuModuleUnload(self.handle) };
    }
}

/// The first line of a text that says something, for errors.
fn headline(text: &str) -> String {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_string()
}

/// Names and sizes of the parameters of every `.entry`.
fn signatures(text: &str) -> HashMap<String, Vec<Parameter>> {
    let size = |element: &str| match element {
        ".u64" | ".b64" | ".s64" | ".f64" => 8,
        ".u16" | ".b16" | ".s16" => 2,
        ".u8" | ".b8" | ".s8" => 1,
        _ => 4,
    };
    let mut found = HashMap::new();
    for after in text.split(".entry").skip(1) {
        let Some((head, rest)) = after.split_once('(') else { continue };
        let Some((list, _)) = rest.split_once(')') else { continue };
        let parameters = list
            .split(',')
            .filter_map(|parameter| {
                let line = parameter.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
                let words: Vec<&str> = line.split_whitespace().collect();
                let element = words.iter().find(|word| word.starts_with('.') && **word != ".param")?;
                Some(((*words.last()?).to_string(), size(element)))
            })
            .collect();
        found.insert(head.trim().to_string(), parameters);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_from_the_text() {
        let text = ".visible .entry a_f32(\n  .param .u64 y, // out\n  .param .u32 width,\n  .param .f32 eps\n)\n.maxntid 32\n{ ret; }\n.visible .entry b() { ret; }";
        let found = signatures(text);
        assert_eq!(found["a_f32"], vec![("y".to_string(), 8), ("width".to_string(), 4), ("eps".to_string(), 4)]);
        assert!(found["b"].is_empty());
    }
}
