//! What an export was made from.

use serde::Serialize;

use crate::embeddings::Embeddings;

/// What an export was made from. No path of this machine is in it.
#[derive(Clone, Debug, Serialize)]
pub struct MadeFrom {
    program: &'static str,
    /// None where it is not known: the embeddings were imported, and nothing was learned from them.
    clip: Option<Clip>,
    /// What was done to an image before it was encoded; none where the embeddings were imported.
    preprocessing: Option<String>,
    sources: Vec<SourceName>,
    stream: Option<String>,
    /// What classifies, as tables call it; none of embeddings.
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    /// Text of a class that is not learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Clip {
    /// None where the embeddings were imported.
    name: Option<String>,
    sha256: String,
}

#[derive(Clone, Debug, Serialize)]
struct SourceName {
    name: String,
    fingerprint: String,
}

impl MadeFrom {
    /// Of embeddings, of one CLIP, in the classes of a stream where there is one.
    pub fn embeddings(sources: &[&Embeddings], stream: Option<&str>) -> Self {
        let plan = sources.first().map(|source| &source.plan);
        let clip = plan.and_then(|plan| plan.model.as_ref());
        let name = |source: &&Embeddings| SourceName {
            name: source.name.clone(),
            fingerprint: source.plan.source.fingerprint.clone(),
        };
        MadeFrom {
            program: concat!("cgil ", env!("CARGO_PKG_VERSION")),
            clip: clip.map(|id| Clip { name: Some(id.name.clone()), sha256: id.sha256.clone() }),
            preprocessing: plan.and_then(|plan| plan.preprocessing.clone()),
            sources: sources.iter().map(name).collect(),
            stream: stream.map(str::to_owned),
            method: None,
            template: None,
        }
    }

    /// Of a method that learned from them, with the texts of a CLIP.
    pub fn classifier(self, method: &str, template: &str, clip_sha256: &str) -> Self {
        let imported = || Clip { name: None, sha256: clip_sha256.to_owned() };
        MadeFrom {
            clip: self.clip.or_else(|| Some(imported())),
            method: Some(method.to_owned()),
            template: Some(template.to_owned()),
            ..self
        }
    }

    /// With an image encoder, which takes images that were prepared so; where embeddings say otherwise,
    /// as theirs were.
    pub fn prepared(self, preprocessing: String) -> Self {
        MadeFrom { preprocessing: self.preprocessing.or(Some(preprocessing)), ..self }
    }
}
