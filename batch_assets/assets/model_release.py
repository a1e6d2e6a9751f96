"""`model_release`: which release the nights use, as the graph records it."""

import dagster as dg

from batch_assets.assets.pipeline import Pipeline
from batch_assets.errors import UnapprovedError
from batch_assets.resources import StorageResource

# In the metadata of the asset's definition: the name of the model.
MODEL = "model"


def build_model_release(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec

    @dg.asset(
        **pipeline.look("model_release", "pytorch", partitioned=False),
        metadata={MODEL: spec.model.name},
    )
    def model_release(storage: StorageResource) -> dg.MaterializeResult:
        """The release that is approved for batch scoring, by the sha256 of its content.

        Its files are hashed here, and again before each night loads them. Its digest is
        the data version, so that the graph records which model a partition came from.
        """
        registry = storage.registry()
        release = registry.resolve(spec.model.name)
        approval = [
            act for act in registry.events(release.name) if act.digest == release.digest
        ][-1]
        manifest = release.manifest
        return dg.MaterializeResult(
            metadata={
                "dagster/uri": str(release.folder),
                "model": release.name,
                "digest": release.digest,
                "format": manifest.model.format,
                "torch": manifest.model.torch,
                "versions": dg.MetadataValue.json(manifest.model.versions),
                "features": len(manifest.contract.features),
                "outputs": ", ".join(manifest.contract.output_names),
                "bytes": sum(entry.size for entry in manifest.files.values()),
                "approved_by": approval.by,
                "approved_at": dg.MetadataValue.timestamp(approval.at),
                "why": approval.why,
                "evidence": approval.evidence.finding if approval.evidence else "none",
                "about": dg.MetadataValue.json(manifest.about),
            },
            data_version=dg.DataVersion(release.digest),
        )

    return model_release


def released_digest(instance: dg.DagsterInstance, pipeline: Pipeline) -> str:
    """Return the digest that `model_release` was last materialised with.

    Raises:
        UnapprovedError: it never was.
    """
    event = instance.get_latest_materialization_event(pipeline.key("model_release"))
    if event is None or event.asset_materialization is None:
        msg = (
            f"{pipeline.spec.name}/model_release was never materialised, so there is "
            "no release to score with: materialise it together with the predictions"
        )
        raise UnapprovedError(msg)
    return str(event.asset_materialization.metadata["digest"].value)
