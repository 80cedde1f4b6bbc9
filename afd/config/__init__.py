"""Schema of params: a campaign's values (`Params`) and the circumstance of its runs (`Cluster`).

`Params` holds the literal values that change a result; every one of them enters a fingerprint.
`Cluster` holds circumstance (executor, threads, services); none of it does.
"""

from afd.config.alarms import AlarmsParams
from afd.config.campaign import Params
from afd.config.canonical import CanonicalParams
from afd.config.cluster import Cluster
from afd.config.discriminators import (
    ConvDiscriminator,
    Discriminator,
    DitFeaturesDiscriminator,
    PluginDiscriminator,
    VlmDiscriminator,
)
from afd.config.evaluators import OutsideEvaluator, OutsideMetric
from afd.config.families import FamilyName, StudentFamily, families_with, student_family
from afd.config.prompts import FilePrompts, GrammarPrompts, Prompts
from afd.config.rounds import CriticParams, EvaluateParams, FitParams, RolloutParams, UpdateParams
from afd.config.students import (
    AnyFlowFarParams,
    BlockCausalWan,
    CausalForcingParams,
    CausalWanParams,
    LoraParams,
    MemoryParams,
    PatchCodec,
    PublishedStudent,
    SelfForcingParams,
    Student,
    WarmstartParams,
    WhiteBoxParams,
    is_published,
)
from afd.config.teachers import (
    Access,
    DiffusersTeacher,
    FolderTeacher,
    LocalTeacher,
    PluginTeacher,
    Price,
    RemoteTeacher,
    SimulatorTeacher,
    Teacher,
    Terms,
    semantic_teacher,
)
from afd.config.values import (
    Count,
    FrameSize,
    Frozen,
    Listed,
    NonNegative,
    NonNegativeRange,
    Positive,
    Range,
    Share,
    ShareBelowOne,
    ShareRange,
    rows_and_columns,
)
from afd.config.world import LawsParams, LookParams

__all__ = [
    "Access",
    "AlarmsParams",
    "AnyFlowFarParams",
    "BlockCausalWan",
    "CanonicalParams",
    "CausalForcingParams",
    "CausalWanParams",
    "Cluster",
    "ConvDiscriminator",
    "Count",
    "CriticParams",
    "DiffusersTeacher",
    "Discriminator",
    "DitFeaturesDiscriminator",
    "EvaluateParams",
    "FamilyName",
    "FilePrompts",
    "FitParams",
    "FolderTeacher",
    "FrameSize",
    "Frozen",
    "GrammarPrompts",
    "LawsParams",
    "Listed",
    "LocalTeacher",
    "LookParams",
    "LoraParams",
    "MemoryParams",
    "NonNegative",
    "NonNegativeRange",
    "OutsideEvaluator",
    "OutsideMetric",
    "Params",
    "PatchCodec",
    "PluginDiscriminator",
    "PluginTeacher",
    "Positive",
    "Price",
    "Prompts",
    "PublishedStudent",
    "Range",
    "RemoteTeacher",
    "RolloutParams",
    "SelfForcingParams",
    "Share",
    "ShareBelowOne",
    "ShareRange",
    "SimulatorTeacher",
    "Student",
    "StudentFamily",
    "Teacher",
    "Terms",
    "UpdateParams",
    "VlmDiscriminator",
    "WarmstartParams",
    "WhiteBoxParams",
    "families_with",
    "is_published",
    "rows_and_columns",
    "semantic_teacher",
    "student_family",
]
