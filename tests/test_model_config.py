import pytest

from shared_bert.errors import UserError
from shared_bert.model.config import ATTENTIONS, BertConfig


@pytest.mark.parametrize(
  ('values', 'key'),
  [
    ({'attention': 'sparse'}, 'model.attention'),
    ({'diagonal_init': 'zeros'}, 'model.diagonal_init'),
    ({'pairwise_init': 'zeros'}, 'model.pairwise_init'),
    ({'dtype': 'float16'}, 'model.dtype'),
    ({'remat': 'all'}, 'model.remat'),
    ({'vocab_size': 0}, 'model.vocab_size'),
    ({'num_layers': 0}, 'model.num_layers'),
    ({'num_heads': 0}, 'model.num_heads'),
    ({'max_positions': -1}, 'model.max_positions'),
    ({'hidden_dropout': 1.0}, 'model.hidden_dropout'),
    ({'attention_dropout': -0.1}, 'model.attention_dropout'),
    ({'hidden_size': 10, 'num_heads': 4}, 'model.hidden_size'),
    ({'attention': 'tied', 'role_bias': True}, 'model.role_bias'),
    ({'residual_rank': 4}, 'model.role_bias=True'),
    ({'residual_rank': -1}, 'model.residual_rank'),
    ({'layer_norm_epsilon': 0.0}, 'model.layer_norm_epsilon'),
    ({'initializer_range': -0.02}, 'model.initializer_range'),
  ],
)
def test_impossible_configurations_name_their_key(values, key):
  with pytest.raises(UserError, match=key) as error:
    BertConfig(**values)
  assert str(error.value).endswith('.')


def test_an_unknown_size_names_the_known_ones():
  with pytest.raises(UserError, match=r'model\.size=.*huge.*base.*large'):
    BertConfig.of_size('huge')


def test_what_is_set_wins_over_the_size():
  config = BertConfig.of_size('base', num_layers=3, attention='tied')
  assert (config.num_layers, config.hidden_size) == (3, 768)
  assert config.head_size == 64
  assert config.attention in ATTENTIONS
