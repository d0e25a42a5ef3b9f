"""The whole flow, in the order it runs. Stages read files and write files; each is one call of `featcache.stages`.

`complete()` never means that a path exists: the key that settings and inputs demand now is compared with the key that
the artifact carries. Luigi decides what runs at scheduling, so `run()` asks once more before it works.
"""

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import luigi

from featcache import stages
from featcache.core.folder_lock import folder_lock
from featcache.errors import CacheMismatchError
from featcache.project import Artifact
from featcache.settings import ALONE
from pipeline.config import Scope, current_project
from pipeline.parent_death import die_with_parent
from pipeline.stage_progress import Watch, show_summary
from pipeline.targets import ArtifactTarget

# What stages hold while they work, as Luigi counts it; where luigi.cfg's [resources] doesn't say otherwise there is one of each.
_CORES = {"cores": 1}
_GPU = {**_CORES, "gpu": 1}


class Stage(luigi.Task):
    """Artifacts and the work that makes them. Luigi's `resources` let one stage at a time have the cores."""

    scope = Scope(description="set by featcache: digest of the artifacts folder and all settings")
    rerun = luigi.BoolParameter(default=False, description="make exactly this stage run again")
    resources = _CORES

    @abstractmethod
    def artifacts(self) -> list[Artifact]:
        """Where the stage's artifacts are and which keys they must carry now."""

    @abstractmethod
    def work(self, watch: Watch) -> str:
        """Make the artifacts; return in one line what came out."""

    def output(self) -> list[ArtifactTarget]:
        """The artifacts as Luigi sees them; a rerun wants those of this very run."""
        run = current_project().run if self.rerun else None
        return [ArtifactTarget(artifact, run) for artifact in self.artifacts()]

    def complete(self) -> bool:
        """Whether there are artifacts, and each carries the key it must."""
        targets = self.output()
        return bool(targets) and all(target.exists() for target in targets)

    @contextmanager
    def alone(self, inputs: Sequence[luigi.Task]) -> Iterator[Watch | None]:
        """Hold the artifacts folder, after waiting for whoever does; None where the stage became needless meanwhile.

        Raises:
            CacheMismatchError: another run replaced one of the `inputs` by one of other settings.
        """
        die_with_parent()
        with Watch(self) as watch, folder_lock(current_project().folder, self.task_family, watch.notice):
            if self.complete():
                yield None
                return
            changed = next((task.task_family for task in inputs if not task.complete()), None)
            if changed:
                raise CacheMismatchError(
                    f"expected what {changed} made in this run; images, weights or settings changed, or another run "
                    f"replaced it: run the same command again, it goes on from there"
                )
            watch.begun = time.perf_counter()  # waiting for another run is no work
            yield watch

    def run(self) -> Iterator[list[luigi.Task]] | None:
        """Work, unless it became needless since the scheduling."""
        with self.alone(self.deps()) as watch:
            if watch is not None:
                watch.result(self.work(watch))
        return None


class IndexImages(Stage):
    """List images, labels and groups as the manifest."""

    def artifacts(self) -> list[Artifact]:
        return [current_project().manifest()]

    def work(self, watch: Watch) -> str:
        return stages.index_images(current_project(), watch)


class ExtractSplit(Stage):
    """Run the backbone over one split, into one feature cache for each copy."""

    resources = _GPU
    split = luigi.Parameter(description="train, valid or test")

    def requires(self) -> luigi.Task:
        return IndexImages()

    def artifacts(self) -> list[Artifact]:
        return [current_project().features(*cache) for cache in current_project().caches() if cache[0] == self.split]

    def work(self, watch: Watch) -> str:
        return stages.extract_split(current_project(), self.split, watch, fresh=self.rerun)


class ExtractFeatures(Stage):
    """Settle what is `auto`, then cache every split."""

    def requires(self) -> luigi.Task:
        return IndexImages()

    def artifacts(self) -> list[Artifact]:
        return [current_project().all_features()]

    def run(self) -> Iterator[list[luigi.Task]]:
        """Which caches there are is known only now, so they are dependencies that Luigi learns while it runs."""
        with self.alone(self.deps()) as watch:
            if watch is None:
                return
            stages.resolve_features(current_project(), watch)
        caches: list[luigi.Task] = [ExtractSplit(split=split, rerun=self.rerun) for split in current_project().splits()]
        yield caches
        with self.alone(caches) as watch:
            if watch is not None:
                watch.result(self.work(watch))

    def work(self, watch: Watch) -> str:
        return stages.finish_features(current_project(), watch)


class TrainBag(Stage):
    """Train the heads of one tap and shape: folds x seeds, in one pass over the features."""

    resources = _GPU
    tap = luigi.Parameter(description="the tap's name in the feature cache, e.g. block5_pool")
    shape = luigi.Parameter(description="one of the preset's kinds of heads, e.g. dense")

    def requires(self) -> list[luigi.Task]:
        labelling = current_project().labelling_bags(self.shape)
        return [ExtractFeatures(), *(TrainBag(tap=tap, shape=shape) for tap, shape in labelling)]

    def artifacts(self) -> list[Artifact]:
        return [current_project().bag(self.tap, self.shape)]

    def work(self, watch: Watch) -> str:
        return stages.train_bag(current_project(), self.tap, self.shape, watch)


class TrainHeads(Stage):
    """Train the heads of every tap and shape: one bag after the other, or with [Cluster] all at once on its workers."""

    resources = _GPU

    def requires(self) -> list[luigi.Task]:
        if current_project().settings.cluster.scheduler != ALONE:
            return [ExtractFeatures()]
        return [TrainBag(tap=tap, shape=shape, rerun=self.rerun) for tap, shape in current_project().bags()]

    def artifacts(self) -> list[Artifact]:
        return [current_project().bag(*bag) for bag in current_project().bags()]

    def work(self, watch: Watch) -> str:
        return stages.train_bags(current_project(), watch, fresh=self.rerun)


class TrainConvNets(Stage):
    """Train small convolutional networks end to end, from the images themselves; none by default."""

    resources = _GPU

    def requires(self) -> luigi.Task:
        return IndexImages()

    def artifacts(self) -> list[Artifact]:
        return current_project().convnets()

    def complete(self) -> bool:
        """Whether every member is trained; without any there is nothing to do."""
        return not self.artifacts() or super().complete()

    def work(self, watch: Watch) -> str:
        return stages.train_convnets(current_project(), watch, fresh=self.rerun)


class PredictRows(Stage):
    """Let every member predict the rows that nothing is trained on."""

    resources = _GPU

    def requires(self) -> list[luigi.Task]:
        return [
            ExtractFeatures(),
            TrainHeads(),
            TrainConvNets(),
        ]  # heads may be complete while the test rows' features aren't

    def artifacts(self) -> list[Artifact]:
        return [current_project().predictions(split) for split in current_project().scored_splits()]

    def work(self, watch: Watch) -> str:
        return stages.predict_rows(current_project(), watch)


class BuildEnsemble(Stage):
    """Choose members, weights and clip on the out-of-fold predictions."""

    def requires(self) -> list[luigi.Task]:
        return [TrainHeads(), TrainConvNets()]

    def artifacts(self) -> list[Artifact]:
        return [current_project().ensemble()]

    def work(self, watch: Watch) -> str:
        return stages.build_ensemble(current_project(), watch)


class WriteSubmission(Stage):
    """Apply the ensemble to the test rows, and write and check the submission."""

    priority = 1  # of what is ready it comes first: whatever becomes of the report, the submission is there before

    def requires(self) -> list[luigi.Task]:
        return [ExtractFeatures(), BuildEnsemble(), PredictRows()]

    def artifacts(self) -> list[Artifact]:
        return [current_project().submission()]

    def work(self, watch: Watch) -> str:
        return stages.write_submission(current_project(), watch)


class WriteReport(Stage):
    """Write one page about the run: scores, curves, confusions, likely label errors, a map of the features."""

    def requires(self) -> list[luigi.Task]:
        return [ExtractFeatures(), BuildEnsemble()]

    def artifacts(self) -> list[Artifact]:
        return [current_project().report()]

    def run(self) -> Iterator[list[luigi.Task]]:
        """Whether there are rows to predict is known only now; where there are none, the page tells of training rows alone."""
        predictions: list[luigi.Task] = [PredictRows()] if current_project().scored_splits() else []
        yield predictions
        with self.alone([*self.deps(), *predictions]) as watch:
            if watch is not None:
                watch.result(self.work(watch))

    def work(self, watch: Watch) -> str:
        return stages.write_report(current_project(), watch)


class Submit(Stage):
    """The main job: the checked submission, a report beside it, and what a person wants to know about both.

    Training images alone are a whole run, too: out-of-fold scores and the report, and no submission.
    """

    shown = False

    def requires(self) -> luigi.Task:
        return IndexImages()

    def results(self) -> list[luigi.Task]:
        """The stages that make what a run ends with; which these are is known only once the images are listed."""
        project = current_project()
        if "test" in project.splits():
            found: list[luigi.Task] = [WriteSubmission()]
        else:
            found = [BuildEnsemble(), *([PredictRows()] if project.scored_splits() else [])]
        return [*found, *([WriteReport()] if project.settings.report.enabled else [])]

    def artifacts(self) -> list[Artifact]:
        if not current_project().splits():
            return [current_project().manifest()]  # whose key isn't known yet
        return [artifact for stage in self.results() if isinstance(stage, Stage) for artifact in stage.artifacts()]

    def output(self) -> list[ArtifactTarget]:
        """Submission and report, whichever run made them: a rerun of this stage only shows the summary again."""
        return [ArtifactTarget(artifact) for artifact in self.artifacts()]

    def complete(self) -> bool:
        """Whether all is there and, in a rerun, its summary was shown."""
        return super().complete() and (self.shown or not self.rerun)

    def run(self) -> Iterator[list[luigi.Task]]:
        """Show the summary, once all work upstream is done."""
        yield self.results()
        show_summary()
        self.shown = True

    def work(self, watch: Watch) -> str:
        return "submitted"
