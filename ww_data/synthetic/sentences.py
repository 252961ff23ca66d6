"""What the voices of the embedded corpus say. Written for this project, under its licence."""

import re

_TEXT = """
The ferry leaves the harbour at seven and comes back long after dark. Please put the blue folder on the shelf behind
the door. My sister grows tomatoes, peppers and three kinds of basil. We missed the last bus, so we walked home
through the rain. Nobody could explain why the clock had stopped at noon. Could you turn the volume down a little
before the guests arrive? A grey heron stood on one leg at the edge of the pond. The recipe asks for two cups of flour
and a pinch of salt. He fixed the bicycle with a spoon and a piece of string. Every morning the baker whistles the
same cheerful tune. They measured the width of the river with a very long rope. I left my umbrella on the train again,
the third one this year. The museum is closed on Mondays, except during the holidays. Her voice was calm, but her
hands were shaking. Six thick thistle sticks were stacked beside the fence. The engineer listened to the engine and
shook her head. Do you remember the name of the street where we used to live? Fresh snow covered the tracks before
anyone could follow them. The children built a castle out of boxes and old blankets. Turn left at the church, then
take the second road on your right. A loud crash came from the kitchen, followed by a long silence. The judge asked
the witness to speak more slowly. Our neighbours are moving to a small village by the sea. It takes about forty
minutes to reach the top of the hill. The cat pretended to sleep while the mouse crossed the floor. Thank you for
waiting; the doctor will see you in a moment. She painted the wooden chair yellow and the table green. What would you
do with a whole week and no telephone? The bridge was built long before the first car drove across it. Five judges
voted for the proposal and four against it. He poured the tea carefully, without spilling a single drop. The smell of
coffee woke everyone in the house. In autumn the whole valley turns orange and gold. Just press the small button and
hold it for three seconds. The old radio crackled, hissed, and then played a waltz. Thousands of birds gather on this
island every spring. I would rather read the book than watch the film. The price of the ticket includes a warm lunch.
Somebody has eaten half of the chocolate cake. The pilot announced that we would land ten minutes early. Wash the dark
clothes separately, and never in hot water. A young fox was playing in the shade of the oak tree. The letter arrived
without a stamp or a return address. We need more chairs, more plates, and a much bigger table. The carpenter chose a
plank of cherry wood for the lid. Why does the moon look larger when it is near the horizon? My grandfather repaired
watches for more than fifty years. The shop on the corner sells paper, ink and fountain pens. An unexpected guest is
often the best kind of guest. They whispered so quietly that I could not hear a word. The vase is fragile, so wrap it
in several layers of cloth. Zebras, giraffes and gazelles drank from the same pool. The meeting has been moved to
Thursday at half past two. He learned to swim in a lake so cold that it hurt. A thin ribbon of smoke rose from the
chimney. The orchestra tuned their instruments one last time. Please write your name and the date at the bottom of the
page. The dog barked at the postman, as it did every day. Fish and chips taste best from a paper bag on the beach. The
lighthouse keeper knew every ship by the sound of its horn. She shut the heavy gate and hung the key around her neck.
Is there a pharmacy near here that is open on Sundays? Our train was delayed because of leaves on the track. The
gardener pruned the roses with a pair of rusty scissors. Most of the audience stayed until the very end. You can
borrow my jacket if you promise to bring it back. The valley echoed with the sound of cow bells. A good joke needs no
explanation, and a bad one needs no repeat. The queue outside the theatre stretched around the block. He folded the
map badly and put it into the wrong pocket. There are nine planks, eight nails and only one hammer. The soup is still
too hot; wait until it stops steaming. Jasper juggled five oranges while riding a unicycle. The lamp flickered twice
and then went out for good. I have never been to Norway, but I would love to go. The wolves were heard at night,
though nobody ever saw them. Check the weather forecast before you pack the tent. The new library has large windows
and very soft chairs. Her answer was short, honest and a little surprising. Two hundred runners crossed the line
within a minute. The mayor opened the festival with a speech about bees. A wet towel on the floor can be a dangerous
thing. We watched the clouds and gave each of them a name. The violin was hidden under a pile of winter coats. Choose
a number between one and twenty, and keep it to yourself. The mechanic charged less than we had feared. Heavy trucks
shook the house each time they passed. The youngest player on the team scored the final goal. Honey never spoils if
you keep it dry and sealed. He apologised twice, first in person and then by letter. The island has one road, one
school and no traffic lights. A spider had woven its web across the open window. The professor drew a perfect circle
on the board. Shall we share a taxi, or would you rather walk? The storm broke the mast but not the courage of the
crew. Each of the twins claimed to be the older one. The cheese must ripen for three months in a cool cellar. Nobody
answered the phone, although the lights were on. The path follows the stream and ends at a small waterfall. She speaks
four languages and dreams in two of them. Put the kettle on, and I will look for the biscuits. The statue in the
square has lost its nose and one arm. A bright green parrot landed on the captain's shoulder. They argued about the
colour of the curtains for an hour. The night was clear, and we could see the whole galaxy. Take a deep breath, count
to five, and let it go. The farmer sold his oldest tractor to a museum. Small waves lapped against the side of the
wooden boat. My favourite mug broke this morning, right down the middle. The boys raced down the hill on sledges they
had made themselves. Water boils at a lower temperature on top of a mountain. The ticket machine accepts coins, notes
and most cards.
"""
SENTENCES = tuple(re.split(r"(?<=[.?!]) ", " ".join(_TEXT.split())))
