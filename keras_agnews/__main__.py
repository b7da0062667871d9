"""`python -m keras_agnews` is the command `keras-agnews`."""

from keras_agnews.cli import main

main()
