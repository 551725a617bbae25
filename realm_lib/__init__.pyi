from . import figures as figures
from . import frameworks as frameworks
from .config.profile import Params as Params
from .config.profile import load_params as load_params
from .data.pairs import load_pairs as load_pairs
from .evaluation.judging import evaluate_rewards as evaluate_rewards
from .features.extraction import extract_features as extract_features
from .inference.frameworks import compute_score as compute_score
from .inference.frameworks import reward_func as reward_func
from .models.embedders import build_embedder as build_embedder
from .models.reward_models import build_scorer as build_scorer
from .reward.combiner import Combiner as Combiner
from .reward.realm_reward import RealmReward as RealmReward
from .rlhf.comparison import compare_policies as compare_policies
from .rlhf.dpo import train_dpo as train_dpo
from .rlhf.judges import load_judges as load_judges
from .rlhf.ppo import train_ppo as train_ppo
from .runs.run import Run as Run

__version__: str
