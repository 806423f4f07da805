"""Words, names and sentences that instructions are drawn from; all people and orders are invented.

Names and things differ between the splits, so that no test question is a training one with two
words changed places.
"""

NAMES = {
    "train": "Amira Bruno Carla Dmitri Elif Farid Greta Hana Ivo Jonas Karin Leila Milan Nadia "
             "Oskar Paula Quentin Rosa Samir Tessa",
    "dev": "Ulrik Vera Wim Xenia Yusuf",
    "test": "Zora Anton Bettina Cyril Dora Emil Fiona Goran Hilda",
}  # fmt: skip
ANIMALS = {
    "train": "badger camel dolphin eagle ferret goose heron iguana jackal koala lemur moose newt",
    "dev": "otter parrot quail rabbit",
    "test": "salmon tiger vulture walrus yak zebra",
}
THINGS = {
    "train": "anchor basket candle drawer engine feather guitar hammer ladder mirror needle pencil "
             "ribbon saddle ticket",
    "dev": "umbrella violin window barrel",
    "test": "kettle lantern magnet napkin oven pillow",
}  # fmt: skip
CITIES = {
    "train": "Arnhem Bergen Coimbra Dresden Évora Florence Ghent Haarlem Innsbruck Jena",
    "dev": "Kotor Lyon Malmö",
    "test": "Nantes Odense Porto Riga Split",
}
ROOMS = ("kitchen", "hall", "library", "garden", "office", "workshop")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December")  # fmt: skip
REASONS = ("the train was cancelled", "the room is taken", "two of us are ill",
           "the figures are not ready", "a visitor comes that day")  # fmt: skip
EVENTS = ("meeting", "rehearsal", "lesson", "interview", "inspection")
REQUESTS = ("send me the file", "close the window", "check the numbers", "call the customer",
            "move the boxes", "print the tickets", "water the plants", "book the room",
            "repeat the question", "turn the music down", "bring the keys", "explain the rule",
            "wait outside", "read the first page", "label the shelves", "test the alarm",
            "feed the cat", "sign the form", "count the chairs", "clean the board")  # fmt: skip
PRAISE = ("works better than I hoped", "was worth every cent", "made my week",
          "arrived early and in perfect order", "is the best I have owned")  # fmt: skip
BLAME = ("broke on the second day", "was a waste of money", "never worked at all",
         "arrived late and scratched", "is the worst I have owned")  # fmt: skip
OPPOSITES = (
    "early late;open closed;heavy light;narrow wide;empty full;loud quiet;rough smooth;cheap "
    "expensive;ancient modern;brave cowardly;dry wet;deep shallow;fast slow;generous stingy;"
    "humble proud;increase decrease;guilty innocent;maximum minimum;arrive depart;accept refuse;"
    "victory defeat;visible invisible;permanent temporary;sharp blunt;tidy messy;strong weak;"
    "arrival departure;buy sell;push pull;north south;question answer;remember forget;sink float;"
    "rise fall;win lose;simple complicated;polite rude;public private;sweet bitter;thick thin;"
    "wise foolish;hot cold;lend borrow;expand contract;import export;export import;late early;"
    "closed open"
)
UNITS = (("kilometres", "metres", 1000), ("hours", "minutes", 60), ("kilograms", "grams", 1000),
         ("days", "hours", 24), ("metres", "centimetres", 100), ("weeks", "days", 7),
         ("litres", "millilitres", 1000), ("minutes", "seconds", 60))  # fmt: skip
