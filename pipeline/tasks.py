"""The whole flow, in the order it runs. Stages read files and write files; each is one call of `featcache.stages`.

What a stage needs is in `featcache.project.NEEDS`. `complete()` never means that a path exists: the key that settings and
inputs demand now is compared with the key that the artifact carries. Luigi decides what runs at scheduling, so `run()`
checks again before it works.
"""

from collections.abc import Iterator

import luigi

from featcache import stages
from featcache.project import Artifact, comparison_artifact, final_stages
from featcache.settings import ALONE, IGNORE
from pipeline.config import current_project
from pipeline.stage import GPU, ArtifactTarget, Stage
from pipeline.stage_progress import StageProgress, show_comparison, show_summary


class IndexImages(Stage):
    """List images, labels and groups as the manifest."""

    def artifacts(self) -> list[Artifact]:
        return [current_project().manifest()]

    def work(self, progress: StageProgress) -> str:
        return stages.index_images(current_project(), progress)


class ExtractSplit(Stage):
    """Extract the features of one split, into one feature cache for each backbone and copy."""

    resources = GPU
    split = luigi.Parameter(description="train, valid or test")
    backbone = luigi.OptionalStrParameter(default=None, description="one of several, such as vgg16@224; all without it")

    def artifacts(self) -> list[Artifact]:
        return [
            backbone.cache(split, copy)
            for backbone, split, copy in current_project().caches()
            if split == self.split and self.backbone in (None, backbone.label)
        ]

    def work(self, progress: StageProgress) -> str:
        return stages.extract_split(current_project(), self.split, progress, label=self.backbone, fresh=self.rerun)


class ExtractFeatures(Stage):
    """Resolve `auto` settings, then extract features."""

    def artifacts(self) -> list[Artifact]:
        return [current_project().all_features()]

    def run(self) -> Iterator[list[luigi.Task]]:
        """The splits are known only now, so their extraction is a dependency that Luigi learns while this runs."""
        with self.exclusive(self.deps()) as progress:
            if progress is None:
                return
            stages.resolve_features(current_project(), progress)
        caches: list[luigi.Task] = [
            ExtractSplit(split=split, backbone=backbone.label or None, rerun=self.rerun)
            for backbone in current_project().backbones
            for split in current_project().splits()
        ]
        yield caches
        with self.exclusive(caches) as progress:
            if progress is not None:
                progress.result(self.work(progress))

    def work(self, progress: StageProgress) -> str:
        return stages.finish_features(current_project(), progress)


class FindDuplicates(Stage):
    """Find images that are the same or nearly so, by their features."""

    def artifacts(self) -> list[Artifact]:
        ignored = current_project().settings.dataset.near_duplicates == IGNORE
        return [] if ignored else [current_project().duplicates()]

    def complete(self) -> bool:
        """Whether they are found, or nobody asks for them."""
        return not self.artifacts() or super().complete()

    def work(self, progress: StageProgress) -> str:
        return stages.find_duplicates(current_project(), progress)


class TrainBag(Stage):
    """Train the heads of one input and type: folds x seeds, in one pass over the features."""

    resources = GPU
    tap = luigi.Parameter(
        description="an input of heads: pooled, a tap's name such as block5_pool, or of several backbones vgg16@224"
    )
    shape = luigi.Parameter(description="a head type of the preset, e.g. dense")

    def requires(self) -> list[luigi.Task]:
        labelling = current_project().labelling_bags(self.shape)
        return [*super().requires(), *(TrainBag(tap=tap, shape=shape) for tap, shape in labelling)]

    def artifacts(self) -> list[Artifact]:
        return [current_project().bag(self.tap, self.shape)]

    def work(self, progress: StageProgress) -> str:
        return stages.train_bag(current_project(), self.tap, self.shape, progress)


class TrainHeads(Stage):
    """Train the heads of every input and type: one bag after the other, or with [Cluster] in parallel on its workers."""

    resources = GPU

    def requires(self) -> list[luigi.Task]:
        if current_project().settings.cluster.scheduler != ALONE:
            return super().requires()
        return [TrainBag(tap=tap, shape=shape, rerun=self.rerun) for tap, shape in current_project().bags()]

    def artifacts(self) -> list[Artifact]:
        return [current_project().bag(*bag) for bag in current_project().bags()]

    def work(self, progress: StageProgress) -> str:
        return stages.train_bags(current_project(), progress, fresh=self.rerun)


class TrainConvNets(Stage):
    """Train convnets end to end, from the images themselves; none by default."""

    resources = GPU

    def artifacts(self) -> list[Artifact]:
        return current_project().convnets()

    def complete(self) -> bool:
        """Whether every member is trained, of which there may be none."""
        return not self.artifacts() or super().complete()

    def work(self, progress: StageProgress) -> str:
        return stages.train_convnets(current_project(), progress, fresh=self.rerun)


class PredictRows(Stage):
    """Predict the valid and test images."""

    resources = GPU

    def artifacts(self) -> list[Artifact]:
        return [current_project().predictions(split) for split in current_project().scored_splits()]

    def complete(self) -> bool:
        """Whether every split beside train is predicted, of which there may be none."""
        return bool(current_project().splits()) and all(target.exists() for target in self.output())

    def work(self, progress: StageProgress) -> str:
        return stages.predict_rows(current_project(), progress)


class BuildEnsemble(Stage):
    """Choose members, weights and clip on the out-of-fold predictions."""

    def artifacts(self) -> list[Artifact]:
        return [current_project().ensemble()]

    def work(self, progress: StageProgress) -> str:
        return stages.build_ensemble(current_project(), progress)


class WriteSubmission(Stage):
    """Apply the ensemble to the test rows, and write and check the submission."""

    priority = 1  # before the report, so that no failure of the report delays it

    def artifacts(self) -> list[Artifact]:
        return [current_project().submission()]

    def work(self, progress: StageProgress) -> str:
        return stages.write_submission(current_project(), progress, fresh=self.rerun)


class WriteReport(Stage):
    """Write one page about the run: scores, curves, confusions, likely label errors, a map of the features."""

    def artifacts(self) -> list[Artifact]:
        return [current_project().report()]

    def work(self, progress: StageProgress) -> str:
        return stages.write_report(current_project(), progress, fresh=self.rerun)


class CompareBackbones(Stage):
    """Try the backbones of [Compare] on some training rows: scores, speed, space, and what each adds."""

    resources = GPU

    def artifacts(self) -> list[Artifact]:
        return [comparison_artifact(current_project())]

    def work(self, progress: StageProgress) -> str:
        result = stages.compare_backbones(current_project(), progress)
        progress.later = show_comparison
        return result


class Submit(Stage):
    """The main job: the checked submission, a report beside it, and a summary of both.

    Training images alone are a whole run, too: out-of-fold scores and the report, and no submission.
    """

    shown = False

    def requires(self) -> list[luigi.Task]:
        return [IndexImages()]

    def results(self) -> list[Stage]:
        """The final stages, which are known only once the images are listed."""
        project = current_project()
        names = final_stages(test="test" in project.splits(), report=project.settings.report.enabled)
        return [Stage.known[name]() for name in names]

    def artifacts(self) -> list[Artifact]:
        if not current_project().splits():
            return [current_project().manifest()]  # whose key isn't known yet
        return [artifact for stage in self.results() for artifact in stage.artifacts()]

    def output(self) -> list[ArtifactTarget]:
        """Submission and report, whichever run made them: a rerun of this stage only shows the summary again."""
        return [ArtifactTarget(artifact) for artifact in self.artifacts()]

    def complete(self) -> bool:
        """Whether everything is complete and, in a rerun, its summary was shown."""
        return super().complete() and (self.shown or not self.rerun)

    def run(self) -> Iterator[list[luigi.Task]]:
        """Remember the run and show its summary, once all other stages are complete."""
        yield list(self.results())
        stages.remember_run(current_project())
        show_summary()
        self.shown = True

    def work(self, progress: StageProgress) -> str:
        return "submitted"
