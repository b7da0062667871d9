# %% [markdown]
# # From attention to BERT: sorting the news
#
# The lesson that this package goes back to, its cells in their order, in Keras 3 on any backend:
#
# 1. the data: AG News, four topics;
# 2. a small transformer, built by hand;
# 3. BERT from TF-Hub: frozen, then fine-tuned with warm-up and AdamW;
# 4. BERT from Hugging Face: its tokens, and one short run with the encoder frozen;
# 5. attention, drawn.
#
# Each part says what the lesson saw and what one sees now. The figures are those of one run of
# the full form, on PyTorch, where BERT's own weights were not to be had and random ones took their
# place; on another backend, and with the real weights, they differ.

# %%
import dataclasses
import math
import os
import sys
import warnings

import keras_agnews  # before Keras, for which it chooses a backend that is installed

# isort: split
import keras
import numpy as np
from keras import ops

from keras_agnews import data
from keras_agnews.configs import BertConfig
from keras_agnews.layers import (
    BertPreprocessor,
    MaskedMeanPooling,
    TransformerBlock,
    TransformerEmbedding,
)
from keras_agnews.models import transformer
from keras_agnews.tokenizers import WordTokenizer, learn_words
from keras_agnews.validation import split_validation

# %% [markdown]
# The settings. The short form shows that every cell runs, and no more: a minute is too little to
# learn in. Both BERTs come from the Hugging Face Hub; a local copy does as well, be it a Hugging
# Face directory or, as `"tfhub:PATH"`, the SavedModel that the lesson took from TF-Hub.

# %%
SHORT = "--short" in sys.argv or os.environ.get("LESSON") == "short"
SMALL_BERT = os.environ.get("LESSON_SMALL_BERT", "pretrained")
BERT_BASE = os.environ.get("LESSON_BERT_BASE", "pretrained")
ROWS = 80 if SHORT else 2_500  # of AG News' train split, a fifth of them to check on

keras.utils.set_random_seed(0)
print(
    f"Keras {keras.__version__} on {keras.backend.backend()}, {'short' if SHORT else 'full'} form"
)

# %% [markdown]
# ## 1. The data
#
# **The lesson** takes AG News: a row is a title, a description and one of four topics.
#
# **Now** the rows come from wherever you have them: a path, the directory in `KERAS_AGNEWS_DATA`,
# or the Hub. News wires repeat themselves; `split_validation` keeps the duplicates of a held-out
# text out of the rows to learn from, so that what is measured is not memory.

# %%
OWN_SENTENCES = {
    "World": [
        "Two neighbouring states reopened their border after nine years of silence",
        "Aid convoys reached the flooded province on the fourth day",
        "The president dissolved parliament and called an election for the spring",
        "Observers said that the ceasefire along the river was holding",
    ],
    "Sports": [
        "The goalkeeper scored from his own half in the last minute of the derby",
        "A debutant won the marathon by the width of her shoe",
        "The champions lost their third home game in a row",
        "Rain ended the final with the home side two wickets short",
    ],
    "Business": [
        "The airline cut its forecast as the price of fuel rose again",
        "Shareholders voted down the merger of the two grocers",
        "The central bank left its interest rate where it was",
        "Orders for new trucks fell for the second quarter running",
    ],
    "Sci/Tech": [
        "A probe the size of a suitcase has landed on a passing asteroid",
        "The new chip does the same sums with half the power",
        "Biologists found a frog that had been thought extinct",
        "A flaw in the browser let any page read the clipboard",
    ],
}

try:
    dataset = data.load_agnews("train")
except (keras_agnews.DownloadError, keras_agnews.MissingDependencyError) as error:
    print(f"AG News is not to be had, and 16 invented sentences stand in for it: {error}")
    rows = [(text, i) for i, label in enumerate(data.LABELS) for text in OWN_SENTENCES[label]]
    texts, labels = zip(*rows, strict=True)
    dataset = data.Dataset(list(texts), np.array(labels, "int32"), data.LABELS, "", "this file")

chosen = np.random.default_rng(0).permutation(len(dataset.texts))[:ROWS]
dataset = dataclasses.replace(
    dataset, texts=[dataset.texts[i] for i in chosen], labels=dataset.labels[chosen]
)
train, held_out = split_validation(dataset, fraction=0.2)
print(f"{len(train.texts):,} texts to learn from, {len(held_out.texts):,} held out to check on")
print("topics:", ", ".join(dataset.label_names))

# %% [markdown]
# ## 2. A transformer by hand
#
# A word is a row of one table, its position a row of another, and their sum goes through one block:
# every word looks at every other (attention), then each goes through the same two dense layers
# (feed-forward); both times what comes out is added to what went in, and normalized. The mean over
# the words goes to a small head.
#
# **The lesson saw** Keras's example "Text classification with Transformer": a vocabulary of 20,000
# words, texts of at most 256 (200 in Keras's own version), width 32, 2 heads, feed-forward 32; in
# all 659,592 parameters.
#
# **Now** the same parameters, counted layer by layer. Nearly all of them are the table of words.

# %%
VOCABULARY, POSITIONS, WIDTH = 20_000, 256, 32

ids = keras.Input((None,), dtype="int32", name="ids")
is_word = ops.not_equal(ids, 0)  # 0 is padding
hidden = TransformerEmbedding(VOCABULARY, POSITIONS, WIDTH, initializer_range=0.1)(ids)
hidden = TransformerBlock(
    WIDTH,
    heads=2,
    feed_forward_size=32,
    key_size=32,
    activation="relu",
    epsilon=1e-6,
    dropout=0.1,
    attention_dropout=0.1,
    initializer_range=0.1,
)(hidden, attend=is_word)
hidden = MaskedMeanPooling()(hidden, is_word)
hidden = keras.layers.Dropout(0.1)(hidden)
hidden = keras.layers.Dense(20, activation="relu")(hidden)
hidden = keras.layers.Dropout(0.1)(hidden)
tiny = keras.Model(ids, keras.layers.Dense(4)(hidden))

for layer in tiny.layers:
    if layer.count_params():
        print(f"{type(layer).__name__:20} {layer.count_params():>8,}")
print(f"{'in all':20} {tiny.count_params():>8,}")
assert tiny.count_params() == 648_192 + 10_656 + 660 + 84 == 659_592

# %% [markdown]
# The model ends in logits, so the loss is told so; `softmax` would turn them into probabilities.

# %%
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
accuracies = {}

words = WordTokenizer(learn_words(train.texts, VOCABULARY), max_length=POSITIONS)
tiny.compile(keras.optimizers.AdamW(3e-3), LOSS, metrics=["accuracy"])
history = tiny.fit(
    words(train.texts)["input_ids"],
    train.labels,
    batch_size=32,
    epochs=2 if SHORT else 3,
    validation_data=(words(held_out.texts)["input_ids"], held_out.labels),
    verbose=2,
)
accuracies["a transformer by hand"] = history.history["val_accuracy"][-1]

# %% [markdown]
# **Now**, with 2,001 texts, the loss on them falls from 1.20 to 0.39 to 0.08; of the texts held out
# 56 % are right, then 79 %, then 75 %. In the third epoch the model learns its texts by heart.
#
# Padding must not count. Neither attention nor the mean sees it here, so the answers are the same
# however far a text is padded.


# %%
def difference(a, b):
    """The largest one between two arrays or tensors."""
    return np.abs(ops.convert_to_numpy(a) - ops.convert_to_numpy(b)).max()


few = held_out.texts[:8]
narrow, wide = (words(few, padding=padding)["input_ids"] for padding in (True, POSITIONS))
print(
    f"{len(few)} texts padded to {narrow.shape[1]} words and to {wide.shape[1]}: "
    f"logits differ by {difference(tiny(narrow), tiny(wide)):.0e}"
)

# %% [markdown]
# More texts are the remedy. The zoo's `tiny-transformer` is this very network, trained on 59,392
# rows: 92.07 % of the test split are right. Its weights fit into the model above one by one, and
# the answers are the same.

# %%
shipped = keras_agnews.load("tiny-transformer")
tiny.set_weights(shipped.model.get_weights())
same = shipped.tokenizer(few)["input_ids"]
ours, theirs = tiny(same), shipped.model({"input_word_ids": same})
print(f"its weights in the model above: logits differ by {difference(ours, theirs):.0e}")
result, rows = shipped.description.results[0], shipped.description.recipe["rows"]
print(f"trained on {rows:,} rows: {result['metric']} {result['value']:.2%} on {result['data']}")
answer = shipped.classify("Oil prices soar to an all-time record")
print(f"Oil prices soar to an all-time record: {answer.label}, {answer.score:.0%}")

# %% [markdown]
# ## 3. BERT from TF-Hub
#
# **The lesson saw** two hub layers: `bert_en_uncased_preprocess`, from strings to token ids, and
# `small_bert/bert_en_uncased_L-4_H-128_A-2`, from ids to a dict with `pooled_output`; on top of
# them dropout and a dense layer. First the encoder was frozen, then it was fine-tuned: AdamW, 3
# epochs, a peak of 3e-5, warm-up over 10 % of the steps.
#
# **Now** `hub.KerasLayer` does not work with Keras 3. `BertPreprocessor` and the encoder of
# `small-bert-L4` take the two layers' places, inputs and outputs by the same names.


# %%
def load(name, weights):
    """The classifier with pretrained weights; with random ones where those are not to be had."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*logits.* new and untrained")
            classifier = keras_agnews.load(name, weights=weights)
        print(f"{name}: weights {weights}")
    except keras_agnews.DownloadError as error:
        classifier = keras_agnews.load(name, weights=None)
        print(f"{name}: RANDOM weights, so its figures say nothing about BERT: {error}")
    return classifier


def parameters(variables):
    return sum(math.prod(variable.shape) for variable in variables)


small = load("small-bert-L4", SMALL_BERT)
encoder, tokenizer = small.encoder, small.tokenizer
print(f"encoder: {encoder.count_params():,} parameters")

# %% [markdown]
# Strings are in TensorFlow's graphs alone. On another backend the tokenizer stands in front of the
# model instead of in it; it gives the same ids.

# %%
LENGTH = 32 if SHORT else 128
IN_GRAPH = keras.backend.backend() == "tensorflow"


def tokenize(texts, length=LENGTH):
    """What the preprocessing layer gives, by the tokenizer: ids, mask and types."""
    found = tokenizer(texts, max_length=length, padding=length)
    return {
        "input_word_ids": found["input_ids"],
        "input_mask": found["attention_mask"],
        "input_type_ids": found["token_type_ids"],
    }


def prepare(texts):
    """What the model takes."""
    return np.array(texts, dtype=object) if IN_GRAPH else tokenize(texts)


if IN_GRAPH:
    print("strings go into the model")
    inputs = keras.Input((), dtype="string", name="text")
    tokens = BertPreprocessor(tokenizer.vocabulary, max_length=LENGTH)(inputs)
else:
    print(f"{keras.backend.backend()} has no strings: the tokenizer stands in front of the model")
    names = ("input_word_ids", "input_mask", "input_type_ids")
    inputs = tokens = {name: keras.Input((LENGTH,), dtype="int32", name=name) for name in names}

pieces = tokenizer.batch(train.texts, max_length=LENGTH)
cut = pieces.truncated.mean()
print(f"{np.median(pieces.lengths):.0f} tokens in a text (median); {cut:.1%} are cut at {LENGTH}")

hidden = keras.layers.Dropout(0.1)(encoder(tokens)["pooled_output"])
bert = keras.Model(inputs, keras.layers.Dense(4)(hidden))

# %% [markdown]
# **The lesson errs** where it calls `pooled_output` an average of the tokens. It is the last hidden
# state of the first token, `[CLS]`, through a dense layer and tanh.

# %%
outputs = encoder(tokenize(few))
pooled, states = (
    ops.convert_to_numpy(outputs[name]) for name in ("pooled_output", "sequence_output")
)
kernel, bias = encoder.pooler_layer.get_weights()
mask = tokenize(few)["input_mask"][:, :, None]
first_token = np.tanh(states[:, 0] @ kernel + bias)
average = (states * mask).sum(axis=1) / mask.sum(axis=1)
print(
    f"pooled_output differs from tanh(dense(first token)) by {difference(pooled, first_token):.0e}"
)
print(f"            and from the average over the tokens by {difference(pooled, average):.1f}")

# %% [markdown]
# Frozen: the encoder's weights stay as they are, and only the dense layer on top learns. (Its
# dropout stays at work in training, and it reads each text anew in each epoch. In earnest,
# `keras_agnews.finetune(..., recipe="head")` reads each text once, without dropout.)
#
# **Now**, with random weights, 26 % of the texts held out are right, which is chance: what is to be
# frozen has to have been learned first.

# %%
training = {
    "x": prepare(train.texts),
    "y": train.labels,
    "batch_size": 32,
    "validation_data": (prepare(held_out.texts), held_out.labels),
    "verbose": 2,
}

encoder.trainable = False
print(f"{parameters(bert.trainable_weights):,} of {bert.count_params():,} parameters learn")
bert.compile(keras.optimizers.AdamW(1e-3), LOSS, metrics=["accuracy"])
history = bert.fit(**training, epochs=1 if SHORT else 3)
accuracies["small BERT, frozen"] = history.history["val_accuracy"][-1]

# %% [markdown]
# Unfrozen: everything learns, in steps so small that what the encoder knows is not lost. The rate
# rises for a tenth of the steps, while the moments that AdamW keeps are still poor estimates, and
# then falls to 0. Biases and norms are left out of weight decay, as in BERT's own training.
# A change of `trainable` counts from the next `compile`.
#
# **Now**, with random weights, it is 25 %: steps so small adapt what an encoder knows, and this one
# knows nothing.

# %%
epochs, peak = 3, 3e-5
steps = epochs * math.ceil(len(train.texts) / 32)
schedule = keras_agnews.WarmupLinearDecay(peak, total_steps=steps, warmup=0.1)
for step in (0, schedule.warmup_steps, steps // 2, steps):
    print(f"step {step:>4} of {steps}: learning rate {float(schedule(step)):.1e}")

encoder.trainable = True
print(f"{parameters(bert.trainable_weights):,} of {bert.count_params():,} parameters learn")
optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0)
optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
bert.compile(optimizer, LOSS, metrics=["accuracy"])
history = bert.fit(**training, epochs=epochs)
accuracies["small BERT, fine-tuned"] = history.history["val_accuracy"][-1]

# %% [markdown]
# ## 4. BERT from Hugging Face
#
# **The lesson saw** `bert-base-uncased` and its tokenizer: `[CLS]` (101) begins a sequence, `[SEP]`
# (102) ends each of its texts, `[PAD]` (0) fills it up; the mask is 1 at a token, and the type of a
# token tells the second text from the first.
#
# **Now** the same ids, without Hugging Face's transformers. `##` marks a piece that goes on with
# the word before it.

# %%
found = tokenizer(
    ["I love transformers", "Attention is all you need"],
    pairs=["They retokenize me", "Really?"],
)
for row, numbers in enumerate(found["input_ids"]):
    print(" ".join(tokenizer.tokens(numbers)))
    for name, values in found.items():
        print(f"  {name:14} {values[row].tolist()}")
assert set(found["input_ids"][:, 0]) == {101}
assert tokenizer.tokens([0, 101, 102]) == ["[PAD]", "[CLS]", "[SEP]"]

# %% [markdown]
# **The lesson saw** a model of 109,485,316 parameters, its encoder frozen, trained on 32 batches of
# 32 texts and checked on 2 batches.
#
# **Now** the same count, from the config alone, before any memory is taken. With the encoder
# frozen, only the 3,076 parameters of the dense layer on `pooled_output` learn.

# %%
BATCHES = 2 if SHORT else 32

config = BertConfig.base()
print(f"bert-base with 4 topics: {config.parameters(4):,} parameters")
assert config.parameters(4) == 109_485_316
if SHORT:
    print("short form: one of its twelve blocks, with random weights")
    base = transformer(dataclasses.replace(config, layers=1), classes=4)
else:
    base = load("bert-base", BERT_BASE).model
    assert base.count_params() == config.parameters(4)


def batches(dataset, count):
    """The first texts of a data set, as many as fill `count` batches, and their labels."""
    found = tokenize(dataset.texts[: 32 * count], LENGTH // 2)
    del found["input_mask"]  # this model takes every id but 0 for a token
    return found, dataset.labels[: 32 * count]


base.get_layer("encoder").trainable = False
print(f"{parameters(base.trainable_weights):,} of {base.count_params():,} parameters learn")
base.compile(keras.optimizers.AdamW(1e-3), LOSS, metrics=["accuracy"])
x, y = batches(train, BATCHES)
print(f"{math.ceil(len(y) / 32)} batches, {len(y):,} texts")
history = base.fit(x, y, batch_size=32, validation_data=batches(held_out, 2), verbose=2)
accuracies["BERT-base, frozen"] = history.history["val_accuracy"][-1]

# %% [markdown]
# ## 5. Attention, drawn
#
# **The lesson saw** additive attention from a decoder to its encoder, drawn as an alignment matrix.
#
# **Now** the attention of a text to itself, in the two heads of `tiny-transformer`. A row is a word
# that looks, a column a word that is looked at, and a row adds up to 100 %. Spread evenly over
# these eight words it would be 12 or 13 % each, and much of it is not far from that. What a word
# does to the answer is another question. Integrated gradients answer it: it is "oil" that makes
# this business.

# %%
seen = keras_agnews.attention(shipped, "Oil prices soar to an all-time record")
for head, weights in enumerate(seen.weights[0]):
    print(f"\nhead {head}  " + "".join(f"{token:>8}" for token in seen.tokens))
    for token, row in zip(seen.tokens, weights, strict=True):
        print(f"{token:8}" + "".join(f"{share:8.0%}" for share in row))
print(f"\nwhat each word adds to the logit of {seen.label}")
for token, value in zip(seen.tokens, seen.attribution, strict=True):
    print(f"{token:8} {value:+5.1f} {'#' * round(8 * abs(value))}")

# %% [markdown]
# ## What came of it
#
# Shares of the held-out texts that were sorted rightly; one in four is chance. BERT's figures mean
# something only where its weights were pretrained, and the cells above have said which they had.

# %%
for name, accuracy in accuracies.items():
    print(f"{name:24} {accuracy:6.1%}")
