"""The names of version 0.1, for one version more: they work, and a FutureWarning says the new one."""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

# old module -> new module: names that only moved
_MOVED = {
    "check": {
        "sources": (
            "CARDS Count Card count card_text"),
        "photos": (
            "PhotoFacts decode decode_all"),
    },
    "data": {
        "datasets": (
            "IMAGE_SUFFIXES NAME_RULE REMEDY CSV_FORM DATASETS Split Label name_rule parse_name is_photo Listing "
            "list_photos make_split read_folder ReidData describe read_csv Layout load_dataset relabel pick_queries "
            "holdout"),
        "photos": (
            "to_rgb read_image load_images augment random_erasing Triplet TripletSampler"),
    },
    "decoder": {
        "kernels": (
            "fold fold_edge UpConv"),
    },
    "generate": {
        "set_plan": (
            "MOST Source open_source draw_pairs SetPlan plan_set set_card manifest_text"),
        "generated_set": (
            "SetReport generate_set generate_cli"),
    },
    "layers": {
        "kernels": (
            "ReflectConv2d"),
    },
    "model": {
        "official": (
            "OFFICIAL_NAMES OFFICIAL_KEYS official_name official_keys official_state OfficialFiles save_official "
            "official_files load_official save_official_teacher load_official_teacher"),
        "core": (
            "evaluating"),
    },
    "own": {
        "train_own": (
            "UNREADABLE CURVES KNOWN is_measurable output_folder loss_figure OwnRun train_own parse_changes train_cli"),
    },
    "parallel": {
        "distributed": (
            "pool_moments shared_batch_norm"),
    },
    "rank": {
        "search": (
            "CACHE WIDEST TALLEST Gallery open_gallery Query identify Features gallery_features Answer Search search "
            "show_search answer_text search_text search_table rank_cli"),
        "evidence": (
            "MAPS CAPTIONS activation_map enlarge overlay Pooled pool_with_places Affine affine Evidence evidence "
            "map_pictures"),
    },
    "rivals": {
        "renderer": (
            "joint_points"),
        "other_gans": (
            "read_joints heat_maps block Lsgan PoseGuided Critic"),
    },
    "runs": {
        "planning": (
            "THREE CONTROL OFFLINE BOUND SLOW ABLATIONS ALPHAS OLDER_LABELS SEEDS NOTEBOOKS TEACHER_STEP Job plan_one "
            "plan_runs"),
        "reproduce": (
            "WORKERS notebook_stamp check_parameters run_notebook worker call_worker side_by_side train_all "
            "is_shipped execute_all show_shipped reproduce shown_tier all_labels walkthroughs stored forecast "
            "parse_paths reproduce_cli"),
        "samples": (
            "true_grid"),
    },
    "synthetic": {
        "pedestrians": (
            "PATTERNS PRINTS BOTTOMS HAIR CARRIED SCENES Structure PLAIN SKINS WORLDS CLOTH_COLOURS Appearance Shot "
            "Body People plain vary cross World sample_people cameras sample_shots"),
        "renderer": (
            "PARTS JOINTS INKS Render Scene Frame Fragments Hits camera_axes to_camera fragments hit_cone hit_box "
            "pattern emblem pixels Placement place shadow sensor_noise render"),
        "body": (
            "SLOTS ZONES Skeleton leg skeleton Solids Builder solids"),
    },
    "teacher": {
        "loop": (
            "Stopped save_state load_state check_losses check_weights"),
    },
    "train": {
        "loop": (
            "LOG_COLUMNS write_log trim_log refresh_batch_norm"),
    },
}

# old module: old name=new place
_RENAMED = {
    "config": (
        "value_fault=config.invalid_reason"),
    "core": (
        "send=photos.to_device pick=photos.index_to_device resident=photos.cache_on_device "
        "writing=core.naming_write_errors"),
    "data": (
        "read_boxes=datasets.read_market_layout read_people=datasets.read_person_folders "
        "read_lists=datasets.read_msmt_lists recognise=datasets.detect_layout Broken=photos.UnreadablePhoto "
        "Mended=photos.ReadableData without_broken=photos.drop_unreadable window=photos.crop_indices "
        "SamePerson=photos.PositiveSampler separate=photos.reshuffle_clashes"),
    "decoder": (
        "Styles=decoder.StyleMLPs Folded=kernels.FoldedKernels folded=kernels.fold_kernels edges=kernels.border_lines "
        "rim=kernels.border_outputs ends=kernels.border_views unpad=kernels.unpad_gradient Doubling=decoder.UpBlock"),
    "discriminator": (
        "gradient_punishment=discriminator.r1_penalty"),
    "generate": (
        "Photo=generate.PhotoLike Coder=generate.ImageGenerator paint_pairs=generate.swap_pairs "
        "paint_grid=generate.swap_grid walk=generate.interpolate picture=generate.to_pil sheet=generate.image_sheet "
        "Painter=generate.ImageGenerator open_painter=generate.load_generator made_by=generate.provenance_comment "
        "save_picture=generate.save_image"),
    "layers": (
        "apart=kernels.split_images joined=kernels.join_images ImageNorm=kernels.FusedInstanceNorm "
        "MapNorm=kernels.FusedLayerNorm"),
    "own": (
        "refuse_unfit=train_own.require_trainable set_aside=train_own.hold_out_people "
        "measured_on=train_own.test_splits marks_of=train_own.reid_table own_swaps=train_own.swap_figure "
        "own_lists=train_own.ranking_figure write_own=train_own.write_results"),
    "parallel": (
        "share_rows=distributed.shard_pairs Group=distributed.ProcessGroup Together=distributed.SyncedProcessGroup "
        "join=distributed.init_processes leave=distributed.destroy_processes"),
    "reid": (
        "Own=reid.IdentityColumns own_photos=reid.identity_columns"),
    "rivals": (
        "KINDS=other_gans.GAN_KINDS RATES=other_gans.GAN_RATES BETAS=other_gans.GAN_BETAS "
        "PIXELS=other_gans.PIXEL_WEIGHT channels=other_gans.channels_by_size make_rival=other_gans.make_gan "
        "rival_rate=other_gans.gan_rate RivalState=other_gans.GanState Lesson=other_gans.GanBatch "
        "draw_lesson=other_gans.draw_gan_batch rival_step=other_gans.gan_step train_rival=other_gans.train_gan"),
    "runs": (
        "LATER=runs.FIELDS_AFTER_WARM_UP RIVALS=planning.OTHER_GANS RIVAL_STEP=planning.GAN_STEP "
        "SHOWN=reproduce.WALKTHROUGH_ARTIFACTS photos=runs.load_split rank=runs.evaluate "
        "start_folder=runs.prefix_folder fill_store=runs.generate_training_set Rival=runs.GanRun "
        "get_rival=runs.get_gan unseen_swaps=samples.true_swaps Recipe=planning.NotebookPlan "
        "choose=planning.choose_notebooks work=planning.training_cost obtain=reproduce.ensure_run "
        "seven_people=samples.sample_test_people swap_figure=samples.swap_grid_figure"),
    "speed": (
        "COLOURS=speed.PRECISION_COLOURS"),
    "synthetic": (
        "COLOURS=pedestrians.CLOTHES_PALETTE WHOLE=synthetic.INTEGER_FACTORS take=pedestrians.take_rows "
        "concat=pedestrians.concat_rows to_device=pedestrians.rows_to_device nearest=renderer.rasterise "
        "inks=renderer.palette Paint=renderer.Albedo paint=renderer.albedo light=renderer.shade "
        "crease=renderer.ambient_occlusion behind=renderer.background ground=renderer.pavement "
        "expose=renderer.camera_response Photo=synthetic.PlannedPhoto"),
    "teacher": (
        "Clock=loop.Progress"),
    "train": (
        "ALONE=distributed.SINGLE_PROCESS read=train.encode_in_passes d_step=train.d_losses Fed=train.GeneratedBatch "
        "draw_fed=train.draw_generated g_step=train.g_losses Alone=distributed.SingleProcess descend=train.update "
        "step=train.train_step"),
}

NEW_PLACE = {module: {name: f"{place}.{name}" for place, names in places.items() for name in names.split()}
             for module, places in _MOVED.items()}
for _module, _pairs in _RENAMED.items():
    NEW_PLACE.setdefault(_module, {}).update(pair.split("=") for pair in _pairs.split())


def _look_up(module: str, name: str) -> object:
    "What an old name stands for now. Raises AttributeError for a name that never was."
    place = NEW_PLACE[module].get(name)
    if place is None: raise AttributeError(f"module 'dgnet.{module}' has no attribute '{name}'")
    warnings.warn(f"dgnet.{module}.{name} is dgnet.{place} now; the old name goes with the next version",
                  FutureWarning, stacklevel=3)
    home, new_name = place.split(".")
    return getattr(importlib.import_module(f"dgnet.{home}"), new_name)


class _EmptyModule(Loader):
    "A module that is gone: there is nothing to execute."

    def exec_module(self, module: ModuleType) -> None:
        pass


class _OldNames(MetaPathFinder):
    "Finds `dgnet.NAME` as everybody else does, and adds the old names to what it finds."

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "dgnet" or name not in NEW_PLACE: return None
        spec = ModuleSpec(fullname, _EmptyModule())
        if any(Path(folder, f"{name}.py").exists() for folder in path):
            others = (finder for finder in sys.meta_path if finder is not self)
            specs = (finder.find_spec(fullname, path, target) for finder in others)
            spec = next(spec for spec in specs if spec)
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            module.__getattr__ = lambda attribute: _look_up(name, attribute)

        spec.loader.exec_module = exec_module
        return spec


def keep_old_names() -> None:
    "Called once, when the package is imported."
    if not any(type(finder).__name__ == _OldNames.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _OldNames())
