"""The slot scorer agrees with a template that says everything and catches one that does not. All inputs are made up."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_benchmarks import load

from ladle.errors import UserError
from ladle.evaluation import slots
from ladle.evaluation.intervals import Resampling

template = load("e2e_data_to_text").template

VALUES = {
    "name": ["The Rice Boat", "Zizzi", "The Twenty Two", "Browns Cambridge", "Chez Nobody"],
    "eatType": ["pub", "coffee shop", "restaurant"],
    "food": ["English", "French", "Italian", "Japanese", "Indian", "Chinese", "Fast food"],
    "priceRange": ["cheap", "moderate", "high", "less than £20", "£20-25", "more than £30"],
    "customer rating": ["low", "average", "high", "1 out of 5", "3 out of 5", "5 out of 5"],
    "area": ["riverside", "city centre"],
    "familyFriendly": ["yes", "no"],
    "near": ["Café Rouge", "Raja Indian Cuisine", "Express by Holiday Inn", "All Bar One", "Burger King"],
}
# Words are shared between the values of a tier (see the table), so a swap within one is no contradiction.
TIERS = [
    {"cheap", "less than £20"},
    {"moderate", "£20-25"},
    {"high", "more than £30"},
    {"low", "1 out of 5"},
    {"average", "3 out of 5"},
    {"high", "5 out of 5"},
]
FULL = {slot: values[0] for slot, values in VALUES.items()}
inputs = st.fixed_dictionaries(
    {"name": st.sampled_from(VALUES["name"])},
    optional={slot: st.sampled_from(values) for slot, values in VALUES.items() if slot != "name"},
)


def test_inputs_are_parsed_and_malformed_ones_refused():
    """A source that is no meaning representation must not count as an input without slots."""
    mr = slots.parse_mr("name[The Rice Boat], priceRange[more than £30], customer rating[5 out of 5]")
    assert mr == {"name": "The Rice Boat", "priceRange": "more than £30", "customer rating": "5 out of 5"}
    assert list(mr) == ["name", "priceRange", "customer rating"]
    for source in ("", "The Rice Boat", "name[The Rice Boat", "name[Zizzi], and more"):
        with pytest.raises(UserError, match="not a meaning representation"):
            slots.parse_mr(source)


@settings(deadline=None, max_examples=50)
@given(inputs)
def test_the_template_says_everything_and_adds_nothing(mr):
    """METHOD section 6: the table is good when a plain template scores 100 %."""
    score = slots.score(template(mr), mr)
    assert set(score.said) == set(mr)
    assert score.missing == ()
    assert score.wrong == ()


@settings(deadline=None, max_examples=50)
@given(inputs, st.data())
def test_a_dropped_slot_is_missing(mr, data):
    """A template that leaves a slot out must lose exactly that slot."""
    slot = data.draw(st.sampled_from(sorted(mr)))
    text = template({key: value for key, value in mr.items() if key != slot})
    score = slots.score(text, mr)
    assert score.missing == (slot,)
    assert score.wrong == ()


@pytest.mark.parametrize(
    ("slot", "value", "other"),
    [
        (slot, value, other)
        for slot, values in VALUES.items()
        for value, other in itertools.permutations(values, 2)
        if not any({value, other} <= tier for tier in TIERS)
    ],
)
def test_a_swapped_value_is_missing_and_an_addition(slot, value, other):
    """Every other value of every slot, said in place of the right one."""
    score = slots.score(template({**FULL, slot: other}), {**FULL, slot: value})
    assert score.missing == (slot,)
    # "restaurant" is what people call any of these places: never an addition; a name of no table cannot be seen.
    unseen = other in ("restaurant", "Chez Nobody")
    assert [wrong for wrong, _ in score.wrong] == ([] if unseen else [slot])


@pytest.mark.parametrize("slot", [slot for slot in VALUES if slot != "name"])
def test_an_added_slot_is_an_addition(slot):
    """The input has no such slot; the text says one."""
    mr = {key: value for key, value in FULL.items() if key != slot}
    score = slots.score(template(FULL), mr)
    assert score.missing == ()
    assert [wrong for wrong, _ in score.wrong] == [slot]


@pytest.mark.parametrize(
    ("text", "slot", "value"),
    [
        ("It welcomes families and kids.", "familyFriendly", "yes"),
        ("It isn't family-friendly.", "familyFriendly", "no"),
        ("A non child friendly place.", "familyFriendly", "no"),
        ("It is not the best place to bring your kids.", "familyFriendly", "no"),
        ("For adults only.", "familyFriendly", "no"),
        ("A five-star place.", "customer rating", "5 out of 5"),
        ("Customers rate it 3/5.", "customer rating", "3 out of 5"),
        ("It has a one out of five customer rating.", "customer rating", "1 out of 5"),
        ("A highly rated place.", "customer rating", "high"),
        ("It is poorly rated.", "customer rating", "low"),
        ("Prices are under £20.", "priceRange", "less than £20"),
        ("Meals cost between 20 and 25 pounds.", "priceRange", "£20-25"),
        ("Dishes over £30.", "priceRange", "more than £30"),
        ("An inexpensive place.", "priceRange", "cheap"),
        ("A mid-priced place.", "priceRange", "moderate"),
        ("Its price range is high.", "priceRange", "high"),
        ("On the banks of the river.", "area", "riverside"),
        ("In the center of the city.", "area", "city centre"),
        ("It serves sushi.", "food", "Japanese"),
        ("They sell burgers and fries.", "food", "Fast food"),
        ("British food.", "food", "English"),
        ("A coffee house.", "eatType", "coffee shop"),
    ],
)
def test_what_people_write_is_understood(text, slot, value):
    """A literal match finds 27 % of familyFriendly in human text: the aliases are the point."""
    assert slots.score(text, {slot: value}) == slots.SlotScore((slot,), (), ())


@pytest.mark.parametrize(
    ("text", "mr"),
    [
        (
            "It is near Raja Indian Cuisine and serves French food.",
            {"near": "Raja Indian Cuisine", "food": "French"},
        ),
        ("A cafe near Burger King.", {"near": "Burger King", "eatType": "coffee shop"}),
        ("The Twenty Two is cheap.", {"name": "The Twenty Two", "priceRange": "less than £20"}),
        (
            "Loch Fyne has high quality food and a low customer rating.",
            {"customer rating": "low"} | {"name": "Loch Fyne"},
        ),
    ],
)
def test_words_inside_names_and_idioms_are_no_claims(text, mr):
    """ "Indian" in a name is not the kitchen, "bar" in a name not the kind of place, "high quality" not the price."""
    score = slots.score(text, mr)
    assert score.missing == ()
    assert score.wrong == ()


def test_names_are_found_without_accents_and_case():
    """ "cafe rouge" is Café Rouge; and a name outside the table is known from its own input."""
    assert slots.score("near cafe ROUGE", {"near": "Café Rouge"}).said == ("near",)
    assert slots.score("the blue lagoon is a pub", {"name": "The Blue Lagoon", "eatType": "pub"}).missing == ()
    assert slots.score("It is near Clare Hall.", {"name": "Zizzi"}).wrong == (("name", "clare hall"),)


def test_an_empty_text_says_nothing():
    """Everything is missing, nothing is added."""
    assert slots.score("", FULL) == slots.SlotScore((), tuple(FULL), ())


def test_summary_counts_slots_and_holds_draws_together():
    """Shares are per slot; the interval resamples inputs, not draws."""
    mr = {"name": "Zizzi", "food": "French", "area": "riverside", "eatType": "pub"}
    scores = [
        slots.score(template(mr), mr),
        slots.score("Zizzi is a French pub in the city centre.", mr),
    ]
    summary = slots.summarise(scores, ["a", "a"], Resampling(50))
    assert summary["said"]["value"] == pytest.approx(7 / 8)
    assert summary["wrong"]["value"] == pytest.approx(1 / 8)
    assert summary["faultless"]["value"] == pytest.approx(1 / 2)
    assert summary["wrong_by_slot"] == {"area": 1}
    assert summary["said"]["interval"] is None  # one input only
    assert slots.summarise(scores, resampling=Resampling(50))["said"]["interval"] is not None
    nothing = slots.summarise([])
    assert (nothing["said"]["value"], nothing["wrong"]["value"], nothing["faultless"]["value"]) == (0, 1, 0)


def test_a_table_of_ones_own_is_no_more_than_phrases_and_names():
    """Other data sets need other words."""
    table = slots.SlotTable([{"values": {"colour": ["red"]}, "patterns": ["scarlet"]}], {})
    assert table.score("A scarlet door.", {"colour": "red"}).said == ("colour",)
