"""`ImageDataset`: the Dagster component that turns a dataset's YAML into its assets, their checks and a job."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any, Self

import dagster as dg
from dagster.components import Scaffolder, ScaffoldRequest
from pydantic import BaseModel, ValidationError

from assets.build import build_assets
from assets.checks import build_checks
from assets.health import build_health, build_health_check
from orchestration.automation import build_automation_sensor
from orchestration.backfills import build_backfill_schedule
from orchestration.committed import build_committed_sensor
from orchestration.health import build_health_schedule
from orchestration.new_objects import build_new_objects_sensor
from orchestration.runs import job_name
from shardmill.dataset import DatasetSpec, TemplateEnvironment
from shardmill.errors import ConfigurationError
from shardmill.graph import build_graph
from shardmill.spec import FilledIn, problems


class ImageDatasetScaffolder(Scaffolder):
    """Writes a dataset file to start from."""

    def scaffold(self, request: ScaffoldRequest) -> None:
        """Make the folder and its `defs.yaml`."""
        request.target_path.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9_]", "_", request.target_path.name)
        template = f"""\
            type: {request.type_name}

            attributes:
              name: {name}
              description: What these images are.
              source:
                # One folder a partition. Each object `<key>.<component>` belongs to the sample `<key>`.
                uri: "{{{{ context.project_root }}}}/data/{name}/raw/{{partition}}"
              partitions: [first]
              # Or keep it up to date by itself (docs/keeping-up-to-date.md):
              # partitions: {{by: prefix}}
              # sensor: {{quiet_seconds: 60}}
              # backfill: {{cron: "0 3 * * *"}}
              root: "{{{{ context.project_root }}}}/data/{name}/assets"
              transform:
                operations:
                  - {{operation: Resize, arguments: {{size: 256}}}}
                  - {{operation: CenterCrop, arguments: {{size: 256}}}}
              embedder: {{model: efficientnet-lite0}}
            """
        Path(request.target_path, "defs.yaml").write_text(dedent(template))


@dg.scaffold_with(ImageDatasetScaffolder)
class ImageDataset(dg.Component):
    """A source of raw images and everything derived from it: partitioned assets, their checks and a job."""

    def __init__(self, spec: DatasetSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The schema of `attributes`."""
        return DatasetSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The component, with the templates in its attributes filled in."""
        assert attributes is not None  # the schema has required fields
        project = {"project_root": str(context.project_root.resolve())}
        resolution = context.resolution_context.with_scope(context=project, env=TemplateEnvironment())
        given = attributes.model_dump(exclude_unset=True)
        try:
            return cls(DatasetSpec.model_validate(_filled_in(given, resolution.resolve_value)))
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, field)) or 'dataset'}: {words}" for field, words in problems(error))
            raise ConfigurationError(f"{context.path}: {found}") from None  # pydantic's error shows values

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002
        """The dataset's definitions; resources come from `orchestration.definitions`."""
        return dataset_definitions(self.spec)


def _filled_in(value: Any, fill_in: Callable[[str], Any]) -> Any:
    """The value with its templates filled in; strings that are none cost nothing, and there are many."""
    if isinstance(value, Mapping):
        return {key: _filled_in(item, fill_in) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_filled_in(item, fill_in) for item in value]
    if not isinstance(value, str) or "{{" not in value:
        return value
    filled = fill_in(value)
    return FilledIn(filled) if isinstance(filled, str) else filled


def dataset_definitions(spec: DatasetSpec) -> dg.Definitions:
    """The assets, checks, job, sensors and schedule of one dataset."""
    graph = build_graph(spec)
    assets = build_assets(spec, graph)
    job = dg.define_asset_job(
        name=job_name(spec),
        selection=dg.AssetSelection.groups(spec.name),
        description=f"Everything of {spec.name}, {spec.partitions_per_run} of its partitions a run at most.",
    )
    sensors: list[dg.SensorDefinition] = [build_committed_sensor(spec, graph)]
    if spec.sensor:
        sensors.append(build_new_objects_sensor(spec, spec.sensor))
    if spec.automation:
        sensors.append(build_automation_sensor(spec))
    schedules = [build_backfill_schedule(spec, spec.backfill, assets)] if spec.backfill else []
    if spec.sensor or spec.automation or schedules:
        schedules.append(build_health_schedule(spec))
    checks = [*build_checks(spec, graph), build_health_check(spec, graph)]
    return dg.Definitions(
        assets=[*assets, build_health(spec, graph)],
        asset_checks=checks,
        jobs=[job],
        sensors=sensors,
        schedules=schedules,
    )
