"""Trains a LeNet-5 with convkit's layers on handwritten digits, and saves it so that torch.nn can load it.

    python examples/train_digits.py [--layers torch.nn]

Needs scikit-learn for the digits. The network and its training are in convkit/demo/lenet.py.
"""

from __future__ import annotations

import argparse

import torch

import convkit
from convkit.demo import data
from convkit.demo.lenet import LeNet5, accuracy, train


def main() -> None:
    parser = argparse.ArgumentParser(description="LeNet-5 on handwritten digits")
    parser.add_argument("--layers", choices=("convkit.nn", "torch.nn"), default="convkit.nn")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    layers = {"convkit.nn": convkit.nn, "torch.nn": torch.nn}[options.layers]

    digits = data.digits()
    run = train(layers, digits, epochs=options.epochs, step=print)
    print(f"test accuracy {100 * run.accuracies[-1]:.2f} %, {run.seconds:.1f} s")

    # Weights move freely between the two kinds of layers: names and shapes are the same.
    other = LeNet5(torch.nn)
    other.load_state_dict(run.network.state_dict())
    same = accuracy(other, digits.test_images, digits.test_labels)
    print(f"the same weights in torch.nn's layers: {100 * same:.2f} %")


if __name__ == "__main__":
    main()
