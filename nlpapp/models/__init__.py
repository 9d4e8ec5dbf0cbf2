"""The modules: one model, one file. Importing this package registers ours with the Auto classes."""

from nlpapp.models import bilstm as bilstm
from nlpapp.models import multitask as multitask
from nlpapp.models import text_cnn as text_cnn
from nlpapp.models import transformer_xl as transformer_xl
from nlpapp.models import transformer_xl_classifier as transformer_xl_classifier
